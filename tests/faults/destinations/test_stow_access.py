"""Credentials of DICOMweb destinations: from files, renewed, never told to anybody else."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicom_node.deliver.worker import Courier
from dicom_node.observe.audit import AuditTrail
from tests.faults.destinations.dicomweb import DicomwebPeer
from tests.faults.destinations.outbox import CT, POLICY, Outbox
from tests.faults.destinations.test_stow import SOON, says

MakeOutbox = Callable[..., Outbox]
TOKEN = "eyJ-hidden-token"


@pytest.fixture
def peer() -> Iterator[DicomwebPeer]:
    """A scripted service, listening."""
    service = DicomwebPeer()
    yield service
    service.stop()


def test_a_renewed_token_is_used_without_a_restart(
    peer: DicomwebPeer, make_outbox: MakeOutbox, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    outbox = make_outbox({"PACS": peer.destination(bearer_token_file=file, confirm="query")})
    for token in ("first", "second"):
        file.write_text(f"{token}\n")
        outbox.add(["PACS"])
        outbox.step()
        outbox.step(SOON)
    seen = [headers["Authorization"] for _, _, headers in peer.requests]
    assert seen == ["Bearer first"] * 2 + ["Bearer second"] * 2


def test_user_and_password_come_from_their_file(
    peer: DicomwebPeer, make_outbox: MakeOutbox, tmp_path: Path
) -> None:
    file = tmp_path / "user"
    file.write_text("knoten:pass:wört\n", encoding="utf-8")
    outbox = make_outbox({"PACS": peer.destination(basic_auth_file=file)})
    outbox.add(["PACS"])
    outbox.step()
    scheme, _, value = peer.requests[0][2]["Authorization"].partition(" ")
    assert (scheme, base64.b64decode(value).decode()) == ("Basic", "knoten:pass:wört")


@pytest.mark.parametrize(
    ("key", "content", "words"),
    [
        ("bearer_token_file", None, "cannot be read: No such file"),
        ("bearer_token_file", b"", "must hold one token in one line"),
        ("bearer_token_file", b"two words", "must hold one token in one line"),
        ("bearer_token_file", b"hidden\r\nX-Injected: 1", "must hold one line"),
        ("bearer_token_file", b"hidden\xff", "is not UTF-8 text"),
        ("basic_auth_file", b"hidden", "must hold USER:PASSWORD in one line"),
        ("basic_auth_file", b"hidden:a\nb:c", "must hold one line"),
    ],
)
def test_a_file_that_holds_no_credentials_is_named_and_mended(
    key: str,
    content: bytes | None,
    words: str,
    peer: DicomwebPeer,
    make_outbox: MakeOutbox,
    tmp_path: Path,
) -> None:
    file = tmp_path / "credentials"
    if content is not None:
        file.write_bytes(content)
    outbox = make_outbox({"PACS": peer.destination(**{key: file})})
    outbox.add(["PACS"])
    outbox.step()
    delivery = outbox.only_delivery()
    assert delivery["state"] == "pending"
    assert str(file) in delivery["last_error"]
    assert words in delivery["last_error"]
    assert "hidden" not in delivery["last_error"]
    assert peer.requests == []
    file.write_text("user:password")
    outbox.step(SOON)
    assert outbox.only_delivery()["state"] == "delivered"


def test_credentials_do_not_go_where_a_redirect_leads(
    peer: DicomwebPeer, make_outbox: MakeOutbox, tmp_path: Path
) -> None:
    elsewhere = DicomwebPeer()
    (tmp_path / "token").write_text(TOKEN)
    peer.scripts = [says(308, Location=f"http://127.0.0.1:{elsewhere.port}/rs/studies")]
    outbox = make_outbox({"PACS": peer.destination(bearer_token_file=tmp_path / "token")})
    outbox.add(["PACS"])
    outbox.step()
    elsewhere.stop()
    assert elsewhere.requests == []
    assert outbox.only_delivery()["state"] == "parked"


def test_neither_proxies_nor_passwords_of_the_environment_are_used(
    peer: DicomwebPeer, make_outbox: MakeOutbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    outbox = make_outbox({"PACS": peer.destination()})
    outbox.add(["PACS"])
    outbox.step()
    assert outbox.only_delivery()["state"] == "delivered"
    assert "Authorization" not in peer.requests[0][2]


def test_the_audit_trail_names_the_service_by_its_host(
    peer: DicomwebPeer, make_outbox: MakeOutbox, tmp_path: Path
) -> None:
    (tmp_path / "user").write_text("hidden-user:hidden-password")
    outbox = make_outbox({"PACS": peer.destination(basic_auth_file=tmp_path / "user")})
    audit = AuditTrail(tmp_path / "audit", source="NODE", process="deliver", clock=outbox.clock)
    outbox.courier = Courier(
        outbox.database, outbox.config, POLICY, worker="test", clock=outbox.clock, audit=audit
    )
    peer.scripts = [says(503)]
    uid = outbox.add(["PACS"])
    outbox.step()
    outbox.step(SOON)
    text = "".join(file.read_text() for file in (tmp_path / "audit").glob("*.jsonl"))
    (record,) = (json.loads(line) for line in text.splitlines())
    assert record["event"] == "results_sent"
    assert record["who"] == {"host": "127.0.0.1"}
    facts = record["facts"]
    assert (facts["destination"], facts["instance"]) == ("PACS", uid)
    assert "hidden" not in text


SEND = """
import sys
from pathlib import Path
from dicom_node.config import LogConfig
from dicom_node.config_destinations import DicomwebConfig
from dicom_node.deliver.stow import store_files
from dicom_node.observe.logs import configure_logging
import logging
configure_logging(LogConfig(level="debug"), "deliver")
url, token, *files = sys.argv[1:]
destination = DicomwebConfig(url=url, bearer_token_file=token)
store_files(destination, [Path(file) for file in files], lambda path, outcome: print(outcome))
logging.getLogger("of.another.library").debug("this line is logged")
"""


def test_the_logs_hold_no_addresses_identifiers_or_credentials_of_requests(
    peer: DicomwebPeer, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    url = peer.destination()["url"]
    ended = subprocess.run(
        [sys.executable, "-c", SEND, url, str(tmp_path / "token"), str(CT)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert len(peer.stored) == 1
    assert "this line is logged" in ended.stderr
    for secret in (TOKEN, "/rs/studies", "Bearer", *peer.stored):
        assert secret not in ended.stderr + ended.stdout
