"""DICOM TLS towards destinations: DCMTK, Orthanc, and servers that do it wrong."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from dicom_node.cli.check_door import ports
from dicom_node.cli.check_tls import destination_certificates, door
from dicom_node.config import NodeConfig
from dicom_node.config_destinations import DestinationConfig
from dicom_node.config_network import DicomConfig
from dicom_node.deliver.dimse import SendOutcome, echo, send_files
from dicom_node.errors import DestinationUnavailable
from tests.e2e.harness import START_SECONDS, free_port, tool, wait_for
from tests.integration.orthanc import Orthanc
from tests.integration.tls.certificates import Authority, Pair

CT = Path(get_testdata_file("CT_small.dcm"))


def destination(port: int, **tls: Any) -> DestinationConfig:
    return DestinationConfig.model_validate(
        {"ae_title": "PEER", "host": "127.0.0.1", "port": port, "response_timeout": 10, "tls": tls}
    )


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def start_storescp(
    tmp_path: Path, hospital: Authority
) -> Iterator[Callable[..., tuple[int, Path]]]:
    """Start DCMTK's storescp with TLS; returns port and folder."""
    with ExitStack() as stack:

        def start(pair: Pair, *options: str) -> tuple[int, Path]:
            port, folder = free_port(), tmp_path / "storescp"
            folder.mkdir()
            process = subprocess.Popen(
                [tool("storescp"), "--fork", "-aet", "PEER", "-od", folder, "+tls", pair.key,
                 pair.certificate, "+cf", hospital.certificate, *options, str(port)],
                env=dict(os.environ, TCP_NODELAY="1"),
            )  # fmt: skip
            stack.callback(process.wait, 10)
            stack.callback(process.terminate)
            wait_for(lambda: _answers(port), START_SECONDS, "storescp answers")
            return port, folder

        yield start


@pytest.fixture
def start_server(hospital: Authority) -> Iterator[Callable[..., int]]:
    """Start a TLS server that says nothing after the handshake."""
    with ExitStack() as stack:

        def start(pair: Pair) -> int:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair.certificate, pair.key)
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def serve() -> None:
                try:
                    connection, _ = server.accept()
                    with connection, context.wrap_socket(connection, server_side=True) as secured:
                        secured.recv(1)
                except OSError:
                    return

            thread = threading.Thread(target=serve)
            thread.start()
            stack.callback(thread.join, 10)
            return int(server.getsockname()[1])

        yield start


@pytest.mark.dcmtk
@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"])
def test_dcmtk_takes_objects_by_mutual_tls_in_each_of_its_profiles(
    profile: str, start_storescp, hospital, node_pair, modality_pair
) -> None:
    port, folder = start_storescp(node_pair, profile)
    peer = destination(port, ca_file=hospital.certificate, **modality_pair.settings())
    outcomes: list[SendOutcome] = []
    send_files(peer, "NODE", [CT, CT], lambda _, outcome: outcomes.append(outcome))
    assert outcomes == [SendOutcome(0)] * 2
    (stored,) = folder.iterdir()
    assert dcmread(stored).PixelData == dcmread(CT).PixelData


@pytest.mark.dcmtk
def test_a_destination_that_demands_our_certificate_says_so(
    start_storescp, hospital, node_pair, stranger
) -> None:
    port, _ = start_storescp(node_pair)
    with pytest.raises(DestinationUnavailable, match=r"demands a certificate of ours|with TLS\?"):
        echo(destination(port, ca_file=hospital.certificate), "NODE")
    evil = stranger.issue("node")
    with pytest.raises(DestinationUnavailable, match=r"the CA of our certificate|with TLS\?"):
        echo(destination(port, ca_file=hospital.certificate, **evil.settings()), "NODE")


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("expired", "its certificate has expired; have it renewed there"),
        ("untrusted", "not signed by a CA that we trust; put that CA"),
        ("name", "for another host name; set tls.server_name"),
    ],
)
def test_what_is_wrong_with_a_destination_is_one_sentence(
    fault: str, sentence: str, start_server, hospital, stranger
) -> None:
    pairs = {
        "expired": hospital.issue("late.example.org", days=-1),
        "untrusted": stranger.issue("evil.example.org"),
        "name": hospital.issue("other.example.org", names="DNS:other.example.org"),
    }
    port = start_server(pairs[fault])
    with pytest.raises(DestinationUnavailable, match=sentence):
        echo(destination(port, ca_file=hospital.certificate), "NODE")


def test_a_file_that_is_missing_is_named_and_tried_again_later(tmp_path: Path) -> None:
    with pytest.raises(DestinationUnavailable, match=r"ca_file .*absent\.pem cannot be read"):
        echo(destination(free_port(), ca_file=tmp_path / "absent.pem"), "NODE")


def test_a_certificate_for_another_name_is_taken_where_that_is_said(
    start_tls_receiver, hospital, modality_pair
) -> None:
    pair = hospital.issue("other.example.org", names="DNS:other.example.org")
    _, node = start_tls_receiver({"client_certificates": "none", **pair.settings()})
    assert node.tls is not None
    for settings in ({"server_name": "other.example.org"}, {"verify_host_name": False}):
        tls = node.tls.model_copy(update=settings)
        echo(node.model_copy(update={"tls": tls}), "CT1")


def test_a_destination_without_tls_is_told_apart(start_tls_receiver, hospital) -> None:
    plain_port, _ = start_tls_receiver(port=0)
    with pytest.raises(DestinationUnavailable, match="does not speak TLS on this port"):
        echo(destination(plain_port, ca_file=hospital.certificate), "NODE")


def test_orthanc_and_the_node_speak_tls_both_ways(
    start_tls_receiver, start_orthanc, hospital, node_pair, modality_pair, tmp_path: Path
) -> None:
    """Orthanc forwards by its rule to the receiver; the sender stores in Orthanc."""
    _, node = start_tls_receiver(
        peers=[{"calling_ae_title": "ORTHANC", "certificate_name": "ct1.example.org"}]
    )
    orthanc: Orthanc = start_orthanc(
        node_port=node.port,
        node_ae_title="NODE",
        tls={
            "DicomTlsCertificate": modality_pair.certificate,
            "DicomTlsPrivateKey": modality_pair.key,
            "DicomTlsTrustedCertificates": hospital.certificate,
        },
    )
    peer = destination(
        orthanc.dicom_port,
        ca_file=hospital.certificate,
        server_name="ct1.example.org",
        **node_pair.settings(),
    )
    outcomes: list[SendOutcome] = []
    send_files(peer, "SENDER", [CT], lambda _, outcome: outcomes.append(outcome))
    assert outcomes == [SendOutcome(0)]
    inbox = tmp_path / "home" / "inbox"
    wait_for(lambda: list(inbox.rglob("*.dcm")), 30, f"Orthanc forwards, see {orthanc.log}")
    wait_for(lambda: orthanc.transfers() == ["Success"], 10, "Orthanc calls it a success")


def test_check_reports_certificates_before_they_expire(
    start_tls_receiver, hospital, tmp_path: Path
) -> None:
    soon = hospital.issue("soon.example.org", days=10)
    _, node = start_tls_receiver({"client_certificates": "none", **soon.settings()})
    theirs, authority = destination_certificates("pacs", node)
    assert (theirs.state, "in 9 days" in theirs.found) == ("warning", True)
    assert (authority.part, authority.state) == ("CA", "warning")

    late = hospital.issue("late.example.org", days=-1)
    open_key = tmp_path / "open.key"
    open_key.write_bytes(late.key.read_bytes())
    open_key.chmod(0o644)
    own = {"port": node.port, "client_certificates": "none"}
    files = {"certificate_file": late.certificate, "private_key_file": open_key}
    settings = NodeConfig(
        home=tmp_path, web={"port": None}, dicom=DicomConfig(port=None, tls={**own, **files})
    )
    verdicts = [*ports(settings), *door(settings)]
    states = {(verdict.part, verdict.state) for verdict in verdicts}
    assert states == {("tls port", "failed"), ("certificate", "failed"), ("private key", "warning")}
    assert "another certificate" in verdicts[0].found


def test_check_knows_the_node_behind_its_tls_port(start_tls_receiver, node_pair, hospital) -> None:
    _, node = start_tls_receiver()
    tls = {"port": node.port, "ca_file": hospital.certificate, **node_pair.settings()}
    settings = NodeConfig(web={"port": None}, dicom=DicomConfig(port=None, tls=tls))
    (found,) = ports(settings)
    assert (found.state, found.found.endswith("the node answers")) == ("ok", True)


def test_check_says_what_is_wrong_with_one_destination_and_goes_on(
    start_tls_receiver, hospital, tmp_path: Path
) -> None:
    _, node = start_tls_receiver({"client_certificates": "none"})
    bad = node.model_validate(node.model_dump() | {"tls": {"ca_file": tmp_path / "absent.pem"}})
    (missing,) = destination_certificates("pacs", bad)
    assert (missing.state, "absent.pem cannot be read" in missing.found) == ("failed", True)
