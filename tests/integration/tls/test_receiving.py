"""DICOM TLS of the receiver against DCMTK, openssl and peers that do it wrong."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from dicom_node.config_destinations import DestinationConfig
from dicom_node.deliver.dimse import echo
from dicom_node.errors import ConfigError, DestinationUnavailable
from dicom_node.node import child_environment
from dicom_node.store.inbox import scan
from tests.conftest import Logged
from tests.integration.tls.certificates import Authority, Pair, openssl

CT = Path(get_testdata_file("CT_small.dcm"))


def client(node: DestinationConfig, pair: Pair, **settings: object) -> DestinationConfig:
    """The node as a sender with a certificate sees it."""
    assert node.tls is not None
    return node.model_copy(
        update={"tls": node.tls.model_copy(update={**pair.settings(), **settings})}
    )


def wait_for_line(logged: Logged, *words: str) -> str:
    """Everything that has been logged, once a line holds all the words."""
    seen, deadline = "", time.monotonic() + 10
    while time.monotonic() < deadline:
        seen += logged.new()
        if any(all(word in line for word in words) for line in seen.splitlines()):
            return seen
        time.sleep(0.02)
    raise AssertionError(f"no line with {words}:\n{seen}")


@pytest.mark.dcmtk
@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"])
def test_dcmtk_sends_by_mutual_tls_in_each_of_its_profiles(
    profile: str, start_tls_receiver, dcmtk, hospital, modality_pair, tmp_path: Path, logged
) -> None:
    _, node = start_tls_receiver()
    ended = dcmtk(
        "storescu", "-v", "+tls", modality_pair.key, modality_pair.certificate, profile,
        "+cf", hospital.certificate, "-aet", "CT1", "-aec", "NODE", "127.0.0.1", node.port, CT,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    wait_for_line(logged, "association_ended", "stored=1")
    (listing,) = scan(tmp_path / "home" / "inbox")
    assert dcmread(listing.files[0]).SOPInstanceUID == dcmread(CT).SOPInstanceUID


def test_the_log_names_the_certificate_and_the_version(
    start_tls_receiver, modality_pair, logged
) -> None:
    _, node = start_tls_receiver()
    echo(client(node, modality_pair), "CT1")
    wait_for_line(logged, "association_accepted", "ct1.example.org", "TLSv1.3")


@pytest.fixture
def bad_pairs(hospital: Authority, stranger: Authority) -> dict[str, Pair]:
    return {
        "certificate_expired": hospital.issue("late", days=-1),
        "certificate_untrusted": stranger.issue("evil"),
    }


@pytest.mark.parametrize("reason", ["certificate_expired", "certificate_untrusted"])
def test_a_senders_bad_certificate_is_refused_and_explained_on_both_sides(
    reason: str, start_tls_receiver, bad_pairs, modality_pair, logged
) -> None:
    _, node = start_tls_receiver()
    with pytest.raises(DestinationUnavailable, match=r"our certificate|the CA of our"):
        echo(client(node, bad_pairs[reason]), "CT1")
    wait_for_line(logged, "connection_refused", reason, "host=127.0.0.1", "remedy=")
    echo(client(node, modality_pair), "CT1")


@pytest.mark.dcmtk
def test_a_sender_without_certificate_is_refused_unless_that_is_allowed(
    start_tls_receiver, dcmtk, hospital, logged
) -> None:
    _, strict = start_tls_receiver()
    with pytest.raises(DestinationUnavailable, match="it demands a certificate of ours"):
        echo(strict, "CT1")
    wait_for_line(logged, "connection_refused", "no_certificate", "it showed no certificate")
    for policy in ("optional", "none"):
        _, node = start_tls_receiver({"client_certificates": policy})
        echo(node, "CT1")
        anonymous = ("+tla", "+cf", hospital.certificate, "127.0.0.1", node.port)
        assert dcmtk("echoscu", *anonymous).returncode == 0


def test_an_optional_certificate_that_is_bad_is_refused_all_the_same(
    start_tls_receiver, bad_pairs, logged
) -> None:
    _, node = start_tls_receiver({"client_certificates": "optional"})
    with pytest.raises(DestinationUnavailable):
        echo(client(node, bad_pairs["certificate_untrusted"]), "CT1")
    wait_for_line(logged, "connection_refused", "certificate_untrusted")


def test_tls_and_no_tls_on_the_wrong_port_are_told_apart(
    start_tls_receiver, modality_pair, logged
) -> None:
    plain_port, node = start_tls_receiver(port=0)
    with pytest.raises(DestinationUnavailable, match="a DICOM port without TLS"):
        echo(node.model_copy(update={"tls": None}), "CT1")
    wait_for_line(logged, "connection_refused", "no_tls")
    plain = client(node, modality_pair).model_copy(update={"port": plain_port})
    with pytest.raises(DestinationUnavailable, match="does not speak TLS"):
        echo(plain, "CT1")
    wait_for_line(logged, "connection_refused", "tls_on_plain_port", "dicom.tls.port")
    echo(plain.model_copy(update={"tls": None}), "CT1")


def s_client(node: DestinationConfig, pair: Pair, *options: str) -> str:
    ended = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{node.port}", "-cert", pair.certificate,
         "-key", pair.key, *options],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30, check=False,
    )  # fmt: skip
    return ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("options", "negotiated"),
    [
        (("-noservername",), "TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384"),
        (("-tls1_2", "-noservername"), "TLSv1.2, Cipher is ECDHE-RSA-AES256-GCM-SHA384"),
        (("-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"), "ECDHE-RSA-AES128-GCM-SHA256"),
        (("-tls1_2", "-cipher", "AES256-GCM-SHA384"), None),
        (("-tls1_2", "-cipher", "ECDHE-RSA-AES256-SHA384"), None),
        (("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"), None),
    ],
)
def test_the_profile_is_bcp_195(
    options: tuple[str, ...], negotiated: str | None, start_tls_receiver, modality_pair
) -> None:
    openssl("version")
    _, node = start_tls_receiver()
    said = s_client(node, modality_pair, *options)
    if negotiated is None:
        assert "Cipher is (NONE)" in said
    else:
        assert negotiated in said


def test_handshakes_that_stall_hold_nobody_up_and_are_ended(
    start_tls_receiver, modality_pair, logged
) -> None:
    _, node = start_tls_receiver(request_timeout=5)
    stalled = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(60)]
    for connection in stalled[::2]:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01")  # the start of a ClientHello, no more
    started = time.monotonic()
    echo(client(node, modality_pair), "CT1")
    assert time.monotonic() - started < 5
    for connection in stalled:
        connection.settimeout(30)
        assert connection.recv(1) == b""
        connection.close()
    assert time.monotonic() - started < 15
    log = wait_for_line(logged, "connection_refused", "handshake_timeout")
    # Five a minute and a summary, and a minute may end meanwhile.
    assert log.count("connection_refused") <= 11


def shown_by(node: DestinationConfig, pair: Pair, ca_file: Path) -> str:
    context = ssl.create_default_context(cafile=ca_file)
    context.load_cert_chain(pair.certificate, pair.key)
    with (
        socket.create_connection(("127.0.0.1", node.port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        return str(connection.getpeercert()["serialNumber"])  # type: ignore[index]


def test_a_renewed_certificate_is_used_without_a_restart_and_a_broken_one_is_not(
    start_tls_receiver, hospital, node_pair, modality_pair, tmp_path: Path, logged
) -> None:
    mine = tmp_path / "mine.pem"
    mine.write_bytes(node_pair.certificate.read_bytes())
    _, node = start_tls_receiver({"certificate_file": mine})
    ask: Callable[[], str] = lambda: shown_by(node, modality_pair, hospital.certificate)  # noqa: E731
    first = ask()
    assert ask() == first
    mine.write_bytes(hospital.issue("renewed.example.org").certificate.read_bytes())
    second = ask()
    assert second != first
    mine.write_text("-----BEGIN CERTIFICATE-----\nhalf a file")
    assert ask() == second
    wait_for_line(logged, "reload_failed", "mine.pem")
    mine.unlink()
    assert ask() == second


def test_unusable_files_stop_the_start_with_their_names(
    start_tls_receiver, stranger, tmp_path: Path
) -> None:
    absent = tmp_path / "absent.pem"
    with pytest.raises(ConfigError, match=r"certificate_file .*absent\.pem cannot be read"):
        start_tls_receiver({"certificate_file": absent})
    with pytest.raises(ConfigError, match="belong together"):
        start_tls_receiver({"private_key_file": stranger.issue("x").key})
    locked = tmp_path / "locked.key"
    openssl("genrsa", "-aes128", "-passout", "pass:secret", "-out", locked, "2048")
    with pytest.raises(ConfigError, match="without passphrase"):
        start_tls_receiver({"private_key_file": locked})


def test_a_peer_is_bound_to_its_certificate(
    start_tls_receiver, hospital, modality_pair, logged
) -> None:
    peers = [{"calling_ae_title": "CT1", "certificate_name": "CT1.example.org"}]
    _, node = start_tls_receiver(peers=peers)
    echo(client(node, modality_pair), "CT1")
    other = hospital.issue("ct2.example.org", names="DNS:ct2.example.org")
    with pytest.raises(DestinationUnavailable, match="does not recognise our AE title"):
        echo(client(node, other), "CT1")
    wait_for_line(logged, "association_refused", "TLS certificate")


def test_the_receive_command_speaks_tls_beside_its_other_port(
    hospital, node_pair, modality_pair, tmp_path: Path
) -> None:
    tls = {"port": 0, "ca_file": hospital.certificate, **node_pair.settings()}
    settings = {"home": tmp_path / "home", "dicom": {"port": 0, "tls": tls}}
    process = subprocess.Popen(
        [sys.executable, "-m", "dicom_node", "receive"],
        env=child_environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        facts = dict(word.split("=") for word in process.stdout.readline().split()[1:])
        node = DestinationConfig(
            ae_title="DICOM_NODE", host="127.0.0.1", port=int(facts["dicom-port"])
        )
        echo(node, "CT1")
        mutual = {"ca_file": hospital.certificate, **modality_pair.settings()}
        secured = {"port": int(facts["dicom-tls-port"]), "tls": mutual}
        echo(DestinationConfig.model_validate(node.model_dump() | secured), "CT1")
    finally:
        process.terminate()
        process.communicate(timeout=30)
