"""From a new connection to its association request, through TLS where the port has it.

All of it happens in the connection's own thread and within one deadline. A connection that says
nothing, such as a load balancer's probe, leaves no line in the log.
"""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from typing import Final

import structlog

from dicom_node.config_network import ServerTlsConfig
from dicom_node.observe.audit import Audit, AuditEvent, Outcome, Who
from dicom_node.receive.limits import SparseLog
from dicom_node.receive.reload import Reloaded
from dicom_node.receive.waiting import WaitingRoom, read_request
from dicom_node.tls import server_context
from dicom_node.tls_failures import TlsFailure, explain_failure

_TLS_HANDSHAKE: Final = b"\x16"  # RFC 8446 section 5.1
_TLS_ON_PLAIN_PORT: Final = TlsFailure(
    "tls_on_plain_port",
    "it speaks TLS on a port without TLS",
    "send it to dicom.tls.port, or switch TLS off there",
)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection, TLS around it where there is TLS, and the A-ASSOCIATE-RQ read from it."""

    connection: socket.socket
    request: bytearray


class Entrance:
    """The way into one port.

    Parameters
    ----------
    tls
        None: a port without TLS.
    request_seconds
        From the connection to its whole association request, handshake included.
    seats
        How many connections may be on this way at a time.
    sparse_log
        Decides which of the lines about strangers are written.

    Raises
    ------
    ConfigError
        Certificate, private key or CA file are not usable.
    """

    def __init__(
        self,
        *,
        tls: ServerTlsConfig | None,
        request_seconds: float,
        seats: int,
        sparse_log: SparseLog,
        audit: Audit,
    ) -> None:
        self._request_seconds = request_seconds
        self._waiting = WaitingRoom(seats)
        self._sparse_log = sparse_log
        self._audit = audit
        self._context = None
        if tls is not None:
            named = tls.certificate_file, tls.private_key_file, tls.ca_file, tls.crl_file
            files = [file for file in named if file is not None]
            self._context = Reloaded("dicom.tls", files, lambda: server_context(tls))

    def open(self, connection: socket.socket, host: str) -> Opened | None:
        """Wait for the association request; None: there is nobody to talk to."""
        deadline = time.monotonic() + self._request_seconds
        self._waiting.enter(connection)
        try:
            first = _peek(connection, self._request_seconds)
            if not first:
                _log.debug("connection without a word", action="connection_silent", host=host)
                return None
            if self._context is not None:
                return self._open_tls(self._context.get(), connection, host, deadline)
            if first == _TLS_HANDSHAKE:
                self._warn(host, _TLS_ON_PLAIN_PORT)
            request = read_request(connection, deadline - time.monotonic())
        finally:
            self._waiting.leave(connection)
        return None if request is None else Opened(connection, request)

    def close(self) -> None:
        """Hang up on everybody who is still on the way."""
        self._waiting.close()

    def _open_tls(
        self, context: ssl.SSLContext, plain: socket.socket, host: str, deadline: float
    ) -> Opened | None:
        self._waiting.leave(plain)  # the wrapped socket takes its place and its descriptor
        secured = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self._waiting.enter(secured)
        request = None
        try:
            secured.settimeout(max(deadline - time.monotonic(), 0.001))  # for all of it
            secured.do_handshake()
        except OSError as error:
            self._warn(host, explain_failure(error))
        else:
            request = read_request(secured, deadline - time.monotonic())
        finally:
            self._waiting.leave(secured)
            if request is None:
                secured.close()
        return None if request is None else Opened(secured, request)

    def _warn(self, host: str, failure: TlsFailure) -> None:
        unlogged = self._sparse_log.admit(host, failure.reason)
        if unlogged is not None:
            _log.warning(
                "connection refused",
                action="connection_refused",
                reason=failure.reason,
                found=failure.found,
                remedy=failure.remedy,
                host=host,
                unlogged=unlogged,
            )
            self._audit.record(
                AuditEvent.NODE_AUTHENTICATION_FAILED,
                outcome=Outcome.SERIOUS_FAILURE,
                who=Who(host=host),
                reason=failure.reason,
                unrecorded=unlogged,
            )


def _peek(connection: socket.socket, seconds: float) -> bytes:
    """The first byte, which stays unread; empty where the peer leaves before it sends one."""
    try:
        connection.settimeout(seconds)
        return connection.recv(1, socket.MSG_PEEK)
    except OSError:
        return b""
