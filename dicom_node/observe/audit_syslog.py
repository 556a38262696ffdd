"""Ships the audit trail to a syslog server over TLS (PS3.15 A.6, RFC 5424, RFC 5425).

Syslog has no answer, so a server that took a message is told from one that died with it by the end
of the connection: after each batch we say goodbye (TLS close_notify) and wait until the server
closes in order, which it cannot before it has read everything; TCP resets the connection of one
that has not. Only then does the cursor move. A batch whose end was lost is sent again: messages may
come twice, each carries its record's number.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from dicom_node.config_network import AuditConfig, SyslogConfig
from dicom_node.errors import ConfigError, Transient
from dicom_node.observe.audit_chain import read_record, trail_files
from dicom_node.observe.audit_message import dicom_message
from dicom_node.store.files import write_durably
from dicom_node.tls import client_context
from dicom_node.tls_failures import explain_failure

BATCH = 200
_FACILITY: Final = 10  # security/authorization messages
_SEVERITY: Final = {0: 5, 4: 4, 8: 3}  # outcome: notice, warning, error
_MESSAGE_ID: Final = "DICOM+RFC3881"
_CURSOR, _LOCK = "syslog.cursor", "syslog.lock"
_ALERT_AFTER_GOODBYE: Final = frozenset({"APPLICATION_DATA_AFTER_CLOSE_NOTIFY"})
_log = structlog.get_logger()


class SyslogUnavailable(Transient):
    """The syslog server did not take a batch; it is sent again."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Up to where the trail is shipped: a file of it, and bytes of that file."""

    file: str
    offset: int


def syslog_frame(record: Mapping[str, Any], *, site: str | None) -> bytes:
    """One message: RFC 5424 header, byte order mark and XML, counted in octets (RFC 5425 4.3)."""
    host = str(record["source"]).rpartition("@")[2] or "-"
    priority = _FACILITY * 8 + _SEVERITY[record["outcome"]]
    header = f"<{priority}>1 {record['at']} {host} dicom_node {record['pid']} {_MESSAGE_ID} - "
    message = header.encode("ascii", "replace") + b"\xef\xbb\xbf" + dicom_message(record, site=site)
    return str(len(message)).encode("ascii") + b" " + message


class SyslogShipper:
    """Sends what the trail holds beyond the cursor.

    Several processes may hold one each: whoever has the lock works, the others rest.

    Parameters
    ----------
    folder
        `<home>/audit`.
    """

    def __init__(self, folder: Path, config: AuditConfig) -> None:
        assert config.syslog is not None, "the composition root asks first"
        self._folder = folder
        self._site = config.site
        self._server: SyslogConfig = config.syslog

    def step(self) -> bool:
        """Ship one batch; False if there is nothing to ship or another process does.

        Raises
        ------
        SyslogUnavailable
            The server did not take it.
        """
        with self._locked() as mine:
            if not mine:
                return False
            frames, cursor = self._next_batch()
            if cursor is None:
                return False
            if frames:
                self._send(b"".join(frames))
            content = json.dumps({"file": cursor.file, "offset": cursor.offset}).encode()
            write_durably(self._folder / _CURSOR, content)
            return True

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            yield False
            return
        try:
            yield True
        finally:
            os.close(lock)

    def _next_batch(self) -> tuple[list[bytes], Cursor | None]:
        """Frames of whole records beyond the cursor, and the cursor after them."""
        start = self._read_cursor()
        for path in trail_files(self._folder):
            if path.name < start.file:
                continue
            offset = start.offset if path.name == start.file else 0
            frames, end = self._frames_of(path, offset)
            if end > offset:
                return frames, Cursor(path.name, end)
        return [], None

    def _frames_of(self, path: Path, offset: int) -> tuple[list[bytes], int]:
        frames: list[bytes] = []
        with path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n") or len(frames) == BATCH:
                    break
                offset += len(line)
                record = read_record(line[:-1])
                if record is not None:
                    frames.append(syslog_frame(record, site=self._site))
        return frames, offset

    def _read_cursor(self) -> Cursor:
        try:
            known = json.loads((self._folder / _CURSOR).read_bytes())
            return Cursor(str(known["file"]), int(known["offset"]))
        except (FileNotFoundError, ValueError, LookupError):
            return Cursor("", 0)  # from the beginning: twice is better than never

    def _send(self, content: bytes) -> None:
        server = self._server
        seconds = server.timeout.total_seconds()
        try:
            context = client_context(server.tls)  # read anew: files may have been renewed
            with socket.create_connection((server.host, server.port), seconds) as plain:
                name = server.tls.server_name or server.host
                with context.wrap_socket(plain, server_hostname=name) as connection:
                    connection.sendall(content)
                    _say_goodbye(connection)
        except ConfigError as error:
            raise SyslogUnavailable(f"audit.syslog: {error}") from error
        except ssl.SSLError as error:
            failure = explain_failure(error)
            raise SyslogUnavailable(
                f"audit.syslog {server.host}:{server.port}: {failure.found}; {failure.remedy}"
            ) from error
        except OSError as error:
            what = error.strerror or type(error).__name__
            raise SyslogUnavailable(f"audit.syslog {server.host}:{server.port}: {what}") from error


def _say_goodbye(connection: ssl.SSLSocket) -> None:
    """End the connection in order: returns once the server has read everything.

    Raises
    ------
    OSError
        It was reset, or the server did not close in time.
    """
    try:
        plain = connection.unwrap()  # sends close_notify, waits for the server's
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        return  # closed without close_notify: TCP's FIN, which follows what was read
    except ssl.SSLError as error:
        if error.reason in _ALERT_AFTER_GOODBYE:
            return  # the server writes where syslog has nothing to say, but it read
        raise
    except OSError as error:
        if isinstance(error, TimeoutError) or error.errno != 0:
            raise
        return  # how Python tells of an end of file here
    with suppress(OSError):
        plain.close()
