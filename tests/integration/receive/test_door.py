"""Who may connect: peers, users, limits; what strangers cost and leave in the log."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from pydicom.data import get_testdata_file
from pynetdicom import AE
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.sop_class import Verification

from dicom_node.config_destinations import DestinationConfig
from dicom_node.deliver.dimse import echo
from dicom_node.errors import DestinationUnavailable
from dicom_node.receive.users import hash_passcode

CT = Path(get_testdata_file("CT_small.dcm"))
SECRET = "correct horse 47"


def peer(title: str, **conditions: object) -> dict[str, object]:
    return {"calling_ae_title": title, **conditions}


@pytest.fixture
def users_file(tmp_path: Path) -> Path:
    file = tmp_path / "users.yaml"
    users = {"ct1": hash_passcode(SECRET.encode(), b"0123456789abcdef"), "viewer": None}
    file.write_text(yaml.safe_dump(users), encoding="utf-8")
    return file


@pytest.mark.dcmtk
def test_peers_are_let_in_from_their_address_under_their_name(start_receiver, tool) -> None:
    _, node = start_receiver(
        peers=[
            peer("LOCAL", addresses=["10.0.0.0/8", "127.0.0.0/8"], called_ae_title="NODE"),
            peer("ELSEWHERE", addresses=["10.1.2.3", "2001:db8::/32"]),
        ],
        calling_ae_titles=("ANYWHERE",),
    )

    def ask(calling: str, called: str = "NODE") -> str:
        ended = tool("echoscu", "-aet", calling, "-aec", called, "127.0.0.1", str(node.port))
        return ended.stderr if ended.returncode else "in"

    assert ask("LOCAL") == ask("ANYWHERE", "OTHER") == "in"
    assert "Called AE Title Not Recognized" in ask("LOCAL", "OTHER")
    for title in ("ELSEWHERE", "MALLORY"):
        assert "Calling AE Title Not Recognized" in ask(title)


def test_a_peers_own_limits_hold_for_it_alone(start_receiver) -> None:
    _, node = start_receiver(
        peers=[peer("BUSY", associations_per_minute=2), peer("QUIET")], max_associations=5
    )
    refusals = []
    for _ in range(5):
        try:
            echo(node, "BUSY")
        except DestinationUnavailable as error:
            refusals.append(str(error))
    assert 1 <= len(refusals) <= 3  # a minute may end meanwhile
    assert all("takes no more associations now" in refusal for refusal in refusals)
    echo(node, "QUIET")


@pytest.mark.dcmtk
def test_a_user_shows_the_right_passcode(
    start_receiver, tool, users_file: Path, logged, tmp_path: Path
) -> None:
    _, node = start_receiver(users_file=users_file, require_user_identity=True)
    token = tmp_path / "token"
    token.write_text("a.b.c")

    def is_let_in(*identity: str) -> bool:
        ended = tool("storescu", *identity, "127.0.0.1", str(node.port), CT)
        assert ended.returncode == 0 or "Association Rejected" in ended.stderr
        return ended.returncode == 0

    assert not is_let_in()
    assert not is_let_in("-usr", "ct1", "-pwd", "wrong")
    assert not is_let_in("-usr", "nobody", "-pwd", SECRET)
    assert not is_let_in("-usr", "ct1")
    assert not is_let_in("--jwt", str(token))
    assert is_let_in("-usr", "ct1", "-pwd", SECRET)
    assert is_let_in("-usr", "ct1", "-pwd", SECRET, "-rsp")
    assert is_let_in("-usr", "viewer", "-rsp")
    log = logged.new()
    assert "user=ct1" in log
    assert "JSON Web Token" in log
    assert "wrong" not in log.replace("passcode is wrong", "")
    assert SECRET not in log


def test_a_user_is_confirmed_where_the_sender_asks_for_it(start_receiver, users_file: Path) -> None:
    """PS3.7 D.3.3.7.2: an empty server response for a user name with or without passcode."""
    _, node = start_receiver(users_file=users_file)
    identity = UserIdentityNegotiation()
    identity.user_identity_type = 2
    identity.primary_field, identity.secondary_field = b"ct1", SECRET.encode()
    identity.positive_response_requested = True
    entity = AE(ae_title="CT1")
    entity.add_requested_context(Verification)
    association = entity.associate(node.host, node.port, ext_neg=[identity])
    assert association.is_established
    answer = association.acceptor.user_identity
    association.release()
    assert answer is not None
    assert answer.server_response == b""


def test_a_user_identity_is_ignored_where_none_is_configured(start_receiver, tool) -> None:
    _, node = start_receiver()
    place = ("127.0.0.1", str(node.port))
    assert tool("storescu", "-usr", "x", "-pwd", "y", *place, CT).returncode == 0


def connect(node: DestinationConfig) -> socket.socket:
    connection = socket.create_connection((node.host, node.port))
    connection.settimeout(10)
    return connection


def test_one_connection_too_many_is_closed_and_the_others_go_on(start_receiver, logged) -> None:
    _, node = start_receiver(max_connections=10, max_connections_per_address=3)
    with ExitStack() as kept:
        for _ in range(3):
            kept.enter_context(connect(node))
        with connect(node) as another:
            assert another.recv(1) == b""
    log, deadline = "", time.monotonic() + 10
    while "dicom.max_connections_per_address" not in log:
        assert time.monotonic() < deadline
        log += logged.new()
    while True:
        try:
            echo(node, "SENDER")
        except DestinationUnavailable:
            assert time.monotonic() < deadline
        else:
            return


def test_probes_cost_no_line_and_a_flood_of_refusals_only_a_few(start_receiver, logged) -> None:
    _, node = start_receiver(peers=[peer("KNOWN")])
    for _ in range(300):
        connect(node).close()
    echo(node, "KNOWN")
    said = logged.new().splitlines()
    told = [line for line in said if "[debug" not in line]
    assert all("association_" in line for line in told), told  # of the echo

    def knock() -> None:
        for _ in range(8):
            with pytest.raises(DestinationUnavailable):
                echo(node, "MALLORY")

    threads = [threading.Thread(target=knock) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = logged.new().splitlines()
    assert 1 <= sum("association_refused" in line for line in lines) <= 10
    assert not any("Exception" in line for line in lines)


def test_a_request_of_one_byte_at_a_time_ends_at_its_deadline(start_receiver) -> None:
    _, node = start_receiver(request_timeout=0.8)
    with connect(node) as slow:
        started = time.monotonic()
        try:
            for byte in b"\x01\x00\x00\x00\x10\x00" + bytes(200):
                slow.sendall(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            pass
        assert time.monotonic() - started < 5
    echo(node, "SENDER")
