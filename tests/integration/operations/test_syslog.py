"""The audit trail reaches a syslog server over TLS, and one that is down loses nothing."""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from xml.etree.ElementTree import fromstring

import pytest

from dicom_node.config_network import AuditConfig
from dicom_node.observe.audit import AuditEvent, AuditTrail, Outcome, StudyPart, Who
from dicom_node.observe.audit_syslog import BATCH, SyslogShipper, SyslogUnavailable
from tests.integration.tls.certificates import Authority, Pair
from tests.unit.observe.audit_schema import violations

# How a server ends: by close_notify, by TCP's FIN alone, by a reset as a killed one does, never.
Ending = Literal["notify", "fin", "reset", "never"]


class SyslogServer:
    """Takes messages in octet-counted frames (RFC 5425) and remembers them."""

    def __init__(self, pair: Pair, ca: Path, *, ending: Ending = "notify", port: int = 0) -> None:
        self.ending: Ending = ending
        self.read_bytes = 1 << 30
        self.received: list[bytes] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pair.certificate, pair.key)
        self._context.load_verify_locations(ca)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def stop(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with suppress(OSError):
                    self._serve(connection)
                connection.close()

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(5)
        with self._context.wrap_socket(
            plain, server_side=True, suppress_ragged_eofs=False
        ) as connection:
            content = b""
            while len(content) < self.read_bytes and (piece := connection.recv(4096)):
                content += piece
            self.received += frames_of(content)
            if self.ending == "notify":
                connection.unwrap()
            elif self.ending == "never":
                threading.Event().wait(1)
            elif self.ending == "reset":
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def frames_of(content: bytes) -> list[bytes]:
    """The whole messages in a stream."""
    found = []
    while match := re.match(rb"([1-9]\d*) ", content):
        start, length = match.end(), int(match[1])
        if len(content) < start + length:
            break
        found.append(content[start : start + length])
        content = content[start + length :]
    return found


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca") / "audit", "Audit CA")


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue("audit")


@pytest.fixture
def start(authority: Authority, pair: Pair) -> Iterator[Callable[..., SyslogServer]]:
    with ExitStack() as stack:

        def new(**options: Any) -> SyslogServer:
            server = SyslogServer(pair, authority.certificate, **options)
            stack.callback(server.stop)
            return server

        yield new


@pytest.fixture
def shipper(authority: Authority, pair: Pair, tmp_path: Path) -> Callable[..., SyslogShipper]:
    def new(port: int, *, ca: Path = authority.certificate, seconds: float = 5) -> SyslogShipper:
        tls = {"ca_file": ca, **pair.settings()}
        syslog = {"host": "127.0.0.1", "port": port, "tls": tls, "timeout": seconds}
        config = AuditConfig.model_validate({"site": "Site 1", "syslog": syslog})
        return SyslogShipper(tmp_path / "audit", config)

    return new


def write(folder: Path, count: int, first: int = 0) -> None:
    """Records whose fact `number` counts on."""
    audit = AuditTrail(
        folder / "audit", source="NODE@host.example", process="test", clock=lambda: NOW
    )
    for number in range(first, first + count):
        audit.record(AuditEvent.RESULTS_SENT, who=Who(ae_title=f"N{number}"), study=STUDY)


NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
STUDY = StudyPart("1.2.3", "Ä 17", {"1.2.840.10008.5.1.4.1.1.88.33": 1})


def sent(server: SyslogServer) -> list[str]:
    """Whom the messages tell of, in the order in which they came."""
    found = []
    for frame in server.received:
        message = fromstring(frame.partition(b"\xef\xbb\xbf")[2])
        found += [
            str(item.get("UserID"))
            for item in message.iter("ActiveParticipant")
            if item.get("UserIsRequestor") == "false"
        ]
    return found


def ship_all(shipper: SyslogShipper) -> None:
    while shipper.step():
        pass


def test_messages_come_as_the_standards_say(
    start: Callable[..., SyslogServer], shipper: Callable[..., SyslogShipper], tmp_path: Path
) -> None:
    server = start()
    write(tmp_path, 2)
    AuditTrail(
        tmp_path / "audit", source="NODE@host.example", process="test", clock=lambda: NOW
    ).record(AuditEvent.NODE_AUTHENTICATION_FAILED, outcome=Outcome.SERIOUS_FAILURE, reason="x")
    ship_all(shipper(server.port))
    headers = [frame.partition(b"\xef\xbb\xbf")[0].decode() for frame in server.received]
    form = r"<(\d+)>1 2026-11-21T12:00:00.000000Z host.example dicom_node \d+ DICOM\+RFC3881 - "
    priorities = [re.fullmatch(form, header) for header in headers]
    assert [match and match[1] for match in priorities] == ["85", "85", "83"]
    for frame in server.received:
        message = fromstring(frame.partition(b"\xef\xbb\xbf")[2])
        assert list(violations(message)) == []
        assert (
            message.find("AuditSourceIdentification[@AuditEnterpriseSiteID='Site 1']") is not None
        )


@pytest.mark.parametrize("ending", ["notify", "fin"])
def test_every_record_comes_once_and_in_order_however_the_server_closes(
    start: Callable[..., SyslogServer],
    shipper: Callable[..., SyslogShipper],
    tmp_path: Path,
    ending: Ending,
) -> None:
    server = start(ending=ending)
    write(tmp_path, BATCH + 5)
    ship_all(shipper(server.port))
    write(tmp_path, 2, first=BATCH + 5)
    ship_all(shipper(server.port))  # as a courier that was started again
    assert sent(server) == [f"N{number}" for number in range(BATCH + 7)]


def test_a_server_that_is_down_loses_nothing(
    start: Callable[..., SyslogServer], shipper: Callable[..., SyslogShipper], tmp_path: Path
) -> None:
    server = start()
    server.stop()
    write(tmp_path, 3)
    for _ in range(2):
        with pytest.raises(SyslogUnavailable, match=r"127\.0\.0\.1:\d+: Connection refused"):
            shipper(server.port).step()
    write(tmp_path, 2, first=3)
    again = start(port=server.port)
    ship_all(shipper(server.port))
    assert sent(again) == [f"N{number}" for number in range(5)]


def test_a_server_that_dies_with_half_a_batch_gets_it_again(
    start: Callable[..., SyslogServer], shipper: Callable[..., SyslogShipper], tmp_path: Path
) -> None:
    dying = start(ending="reset")
    dying.read_bytes = 5000
    write(tmp_path, 50)
    with pytest.raises(SyslogUnavailable):
        shipper(dying.port).step()
    assert 0 < len(dying.received) < 50
    healthy = start()
    ship_all(shipper(healthy.port))
    assert sent(healthy) == [f"N{number}" for number in range(50)]


def test_a_server_that_never_closes_is_not_believed(
    start: Callable[..., SyslogServer], shipper: Callable[..., SyslogShipper], tmp_path: Path
) -> None:
    server = start(ending="never")
    write(tmp_path, 1)
    with pytest.raises(SyslogUnavailable):
        shipper(server.port, seconds=0.3).step()
    assert not (tmp_path / "audit" / "syslog.cursor").exists()


def test_a_server_of_another_authority_gets_nothing(
    start: Callable[..., SyslogServer], shipper: Callable[..., SyslogShipper], tmp_path: Path
) -> None:
    server = start()
    other = Authority(tmp_path / "other", "Other CA")
    write(tmp_path, 1)
    with pytest.raises(SyslogUnavailable, match="not signed by a CA that we trust"):
        shipper(server.port, ca=other.certificate).step()
    assert server.received == []


def test_what_a_crash_left_of_a_record_does_not_stop_the_rest(
    start: Callable[..., SyslogServer], shipper: Callable[..., SyslogShipper], tmp_path: Path
) -> None:
    server = start()
    write(tmp_path, 1)
    (path,) = (tmp_path / "audit").glob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"n":2,"pre')
    ship_all(shipper(server.port))
    assert sent(server) == ["N0"]  # the rest is no whole line: it waits
    write(tmp_path, 1, first=1)
    ship_all(shipper(server.port))
    assert sent(server) == ["N0", "N1"]


def test_a_missing_tls_file_delays_messages_and_ends_nothing(
    start: Callable[..., SyslogServer],
    shipper: Callable[..., SyslogShipper],
    authority: Authority,
    tmp_path: Path,
) -> None:
    server, ca = start(), tmp_path / "ca.pem"
    write(tmp_path, 1)
    shipping = shipper(server.port, ca=ca)
    with pytest.raises(
        SyslogUnavailable, match=r"audit.syslog: tls: ca_file .*ca\.pem cannot be read"
    ):
        shipping.step()
    ca.write_bytes(authority.certificate.read_bytes())
    ship_all(shipping)
    assert sent(server) == ["N0"]
