"""Connections that have not asked for an association yet: they get a thread and a deadline only.

pynetdicom gives every connection two polling threads and a copy of all presentation contexts.
Here a connection gets them once its whole A-ASSOCIATE-RQ has arrived, so that probes, silent peers
and slow ones cost next to nothing.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Final

from pynetdicom.pdu import A_ASSOCIATE_RQ

MAXIMUM_REQUEST_BYTES: Final = 1 << 20
"""Far more than 128 presentation contexts with 40 transfer syntaxes each and an identity token."""

_HEAD: Final = struct.Struct(">BxL")  # PDU type, length: PS3.8 section 9.3.1
_ASSOCIATE_RQ: Final = 0x01
_ABORT: Final = 0x07
_FIXED_BYTES: Final = 68  # of an A-ASSOCIATE-RQ before its items, PS3.8 table 9-11
# An A-ABORT of the service user: what PS3.8 9.2.3, action AA-1, sends before an association.
_REFUSAL: Final = bytes.fromhex("07 00 00 00 00 04 00 00 00 00")
_READ_BYTES: Final = 1 << 16
_GRACE_SECONDS: Final = 2.0
LINGER_SECONDS: Final = 1.0


class WaitingRoom:
    """So many connections; when one more comes, the one that has waited longest must go.

    A peer that means it sends its request at once: whoever waits longest is the least likely one.
    Nobody goes within the first two seconds, in which a crowd of honest peers may be queueing.
    """

    def __init__(self, seats: int) -> None:
        self._seats = seats
        self._lock = threading.Lock()
        self._waiting: dict[socket.socket, float] = {}

    def enter(self, connection: socket.socket) -> None:
        """Take a seat, for a TLS connection before its handshake."""
        now = time.monotonic()
        with self._lock:
            self._waiting[connection] = now
            oldest, since = next(iter(self._waiting.items()))
            must_go = len(self._waiting) > self._seats and now - since > _GRACE_SECONDS
            if must_go:
                del self._waiting[oldest]
        if must_go:
            _hang_up(oldest)

    def leave(self, connection: socket.socket) -> None:
        """Give the seat back; harmless if it is lost already."""
        with self._lock:
            self._waiting.pop(connection, None)

    def close(self) -> None:
        """Hang up on everybody."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for connection in waiting:
            _hang_up(connection)


def read_request(connection: socket.socket, seconds: float) -> bytearray | None:
    """Read one whole, decodable A-ASSOCIATE-RQ.

    Anything else that is a PDU is answered with A-ABORT; who sends nothing whole within `seconds`
    is left without an answer (PS3.8 9.2.3, action AA-2).

    Returns
    -------
    bytearray or None
        The PDU as sent; None: there is nobody to talk to.
    """
    deadline = time.monotonic() + seconds
    request = _read(connection, _HEAD.size, deadline)
    if len(request) < _HEAD.size:
        return None
    kind, length = _HEAD.unpack(request)
    if kind == _ABORT:
        return None
    if kind != _ASSOCIATE_RQ or not _FIXED_BYTES <= length <= MAXIMUM_REQUEST_BYTES:
        refuse(connection)
        return None
    request += _read(connection, length, deadline)
    if len(request) < _HEAD.size + length:
        return None
    if not _is_decodable(bytes(request)):
        refuse(connection)
        return None
    return request


def refuse(connection: socket.socket) -> None:
    """Send an A-ABORT and wait until the peer has had a chance to read it."""
    with suppress(OSError):
        connection.settimeout(LINGER_SECONDS)
        connection.sendall(_REFUSAL)
        linger(connection)


def linger(connection: socket.socket) -> None:
    """Take what the peer still sends until it hangs up, for `LINGER_SECONDS` at most.

    A socket that is closed with unread data resets the connection, and with that the peer may never
    see the A-ABORT that it was sent.

    Raises
    ------
    OSError
        The connection is gone.
    """
    connection.shutdown(socket.SHUT_WR)
    _discard(connection, time.monotonic() + LINGER_SECONDS)


def _discard(connection: socket.socket, deadline: float) -> None:
    while (remaining := deadline - time.monotonic()) > 0:
        connection.settimeout(remaining)
        if not connection.recv(_READ_BYTES):
            return


def _read(connection: socket.socket, count: int, deadline: float) -> bytearray:
    """Read so many bytes; fewer, where the peer or the time ends before."""
    received = bytearray()
    with suppress(OSError):  # TimeoutError is one
        while len(received) < count and (remaining := deadline - time.monotonic()) > 0:
            connection.settimeout(remaining)
            piece = connection.recv(min(count - len(received), _READ_BYTES))
            if not piece:
                break
            received += piece
    return received


def _is_decodable(request: bytes) -> bool:
    """Whether pynetdicom can read it; what it cannot, would end its threads without an answer."""
    try:
        pdu = A_ASSOCIATE_RQ()
        pdu.decode(request)
        contexts = pdu.to_primitive().presentation_context_definition_list
    except Exception:  # noqa: BLE001 - process edge: any bytes may come in, any error out
        return False
    return all(context.abstract_syntax and context.transfer_syntax for context in contexts)


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads; it closes the socket
