"""What both roles on the DICOM network share: who we are, sockets and a quiet pynetdicom."""

from __future__ import annotations

import logging
import select
import socket
import ssl
from contextlib import suppress
from queue import Empty
from typing import Final

from pynetdicom import _config  # noqa: TID251 - one set-up for receive/ and deliver/
from pynetdicom.events import Event  # noqa: TID251 - the same
from pynetdicom.fsm import TRANSITION_TABLE, StateMachine  # noqa: TID251 - the same
from pynetdicom.transport import AssociationSocket  # noqa: TID251 - the same

# Derived from a UUID, PS3.5 B.2; names this implementation (PS3.7 D.3.3.2), not its version.
IMPLEMENTATION_CLASS_UID: Final = "2.25.207312283374112842126229917543310473189"
IMPLEMENTATION_VERSION_NAME: Final = "DICOM_NODE"
# 0: no limit (PS3.8 D.1). Fewer, larger PDUs cost a Python peer far less.
UNLIMITED_PDU: Final = 0
PIECE_BYTES = 1 << 18
# Events of PS3.8 table 9-10 that a primitive in the library's outgoing queue causes.
_OF_OUR_SIDE: Final = frozenset({"Evt7", "Evt8", "Evt9", "Evt11", "Evt14", "Evt15"})


def prepare_pynetdicom() -> None:
    """Set pynetdicom up for this process; harmless if done twice.

    Its loggers write data sets and peers' errors: they are silenced, and its logging handlers,
    which cost a third of the throughput, are not bound. Files are sent as they are stored.
    """
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
    _config.LOG_HANDLER_LEVEL = "none"
    _config.STORE_SEND_CHUNKED_DATASET = True


def prepare_socket(event: Event, timeout_seconds: float) -> None:
    """On EVT_CONN_OPEN: no Nagle delay, and no read or write that waits for ever.

    With Nagle's algorithm each answer waits for the peer's delayed ACK, about 40 ms.
    """
    wrapper = event.assoc.dul.socket
    connection = None if wrapper is None else wrapper.socket
    if connection is None:
        return  # gone again
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(timeout_seconds)


class PatientStateMachine(StateMachine):
    """The library's state machine, which does not fall over what comes too late.

    What our side was about to send while the peer ended the association belongs to no state any
    more: PS3.8 table 9-10 has no entry, and the library would end its thread.
    """

    def do_action(self, event: str) -> None:
        """Act on the event, or drop it and what it announced."""
        if (event, self.current_state) in TRANSITION_TABLE:
            super().do_action(event)
        elif event in _OF_OUR_SIDE:
            with suppress(Empty):
                self.dul.to_provider_queue.get_nowait()


class DimseSocket(AssociationSocket):
    """The library's socket, for both roles, with TLS or without.

    It reads and writes in large pieces, each with a time-out of its own. Every piece, not only
    every PDU, shows that the peer is alive. Memory follows what has arrived, not the length that a
    PDU claims.

    Attributes
    ----------
    ahead
        Bytes that have been read from the connection and not yet by the library.
    failure
        Why TLS gave the connection up; None: it did not.
    """

    failure: OSError | None = None
    ahead = bytearray()

    @property
    def ready(self) -> bool:
        """Whether there is something to read (or the connection's end).

        A TLS record need not hold data (session ticket, key update): `select` then promises what a
        read would wait for, and with it everything that this side has to say.
        """
        if self.ahead:
            return True
        connection = self.socket
        if connection is None or not self._is_connected:
            return False
        if isinstance(connection, ssl.SSLSocket) and connection.pending():
            return True
        poll = select.poll()  # the library's select() ends at descriptor 1024
        try:
            poll.register(connection, select.POLLIN)
        except (OSError, ValueError):  # closed meanwhile
            self.event_queue.put("Evt17")
            return False
        if not poll.poll(0):
            return False
        return not isinstance(connection, ssl.SSLSocket) or self._read_ahead(connection)

    def _read_ahead(self, connection: ssl.SSLSocket) -> bool:
        """Whether a TLS record with data has arrived, or the end."""
        timeout = connection.gettimeout()
        try:
            connection.settimeout(0)
            self.ahead = bytearray(connection.recv(PIECE_BYTES))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError as error:
            self._lost(error)
            return False
        finally:
            with suppress(OSError):
                connection.settimeout(timeout)
        return True

    def recv(self, nr_bytes: int) -> bytearray:
        """Read so many bytes; fewer where the connection ends."""
        connection = self.socket
        received, self.ahead = self.ahead[:nr_bytes], self.ahead[nr_bytes:]
        while connection is not None and len(received) < nr_bytes:
            piece = connection.recv(min(nr_bytes - len(received), PIECE_BYTES))
            if not piece:
                break
            received += piece
            self.assoc.dul._idle_timer.restart()
        return received

    def send(self, bytestream: bytes) -> None:
        """Write all of it; a failure is the end of the connection (Evt17)."""
        connection = self.socket
        if connection is None:
            return
        try:
            for start in range(0, len(bytestream), PIECE_BYTES):
                connection.sendall(bytestream[start : start + PIECE_BYTES])
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        if isinstance(error, ssl.SSLError):
            self.failure = error
        self.event_queue.put("Evt17")
