"""pynetdicom's association server with what it lacks: a shared port, patience, bounds, a sure end.

It overrides internals of the pinned pynetdicom: beside `dimse.py`, nothing else does on this side.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.events import EVT_CONN_OPEN, EventHandlerType, trigger
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from dicom_node.dimse import PIECE_BYTES, DimseSocket
from dicom_node.receive.entrance import Entrance
from dicom_node.receive.limits import Connections, SparseLog
from dicom_node.receive.spool import DataSetBuffer, Spool
from dicom_node.receive.strict import StrictMessages, StrictReader

_POLL_SECONDS = 0.1
_SLOWEST_BYTES_PER_SECOND = 1000
_log = structlog.get_logger()
UNLIMITED_PDU_BYTES: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one peer may cost.

    Attributes
    ----------
    maximum_pdu_bytes
        Longest P-DATA-TF; 0: as long as the standard's length field can say.
    spool
        For data sets on their way in.
    """

    maximum_pdu_bytes: int
    spool: Spool


class _PatientSocket(DimseSocket):
    """Waits for a slow peer, but not for one that sends next to nothing."""

    def recv(self, nr_bytes: int) -> bytearray:
        """Read so many bytes, fewer at the end.

        Raises
        ------
        TimeoutError
            Nothing for as long as the peer may be idle, or, after that long, less than 1 kB/s: a
            byte now and then must not keep an association.
        """
        connection = self.socket
        received, self.ahead = self.ahead[:nr_bytes], self.ahead[nr_bytes:]
        patience = None if connection is None else connection.gettimeout()
        started = time.monotonic()
        while connection is not None and len(received) < nr_bytes:
            piece = connection.recv(min(nr_bytes - len(received), PIECE_BYTES))
            if not piece:
                break
            received += piece
            self.assoc.dul._idle_timer.restart()
            taken = time.monotonic() - started
            if patience and taken > patience + len(received) / _SLOWEST_BYTES_PER_SECOND:
                raise TimeoutError("the peer sends too slowly")
        return received


class _ConnectionHandler(RequestHandler):
    """Runs in a thread of its own; sees every association to its end, however it ends."""

    server: StorageAssociationServer

    def handle(self) -> None:
        host = self.client_address[0]
        try:
            opened = self.server.entrance.open(self.request, host)
            if opened is not None:
                self.request = opened.connection
                self._serve(opened.request)
        finally:
            self.request.close()  # the library leaves it open where the peer has gone
            self.server.connections.leave(host)

    def _serve(self, request: bytearray) -> None:
        bounds = self.server.bounds
        association = self._create_association()
        association.dul = StrictReader(
            association, maximum_pdu_bytes=bounds.maximum_pdu_bytes or UNLIMITED_PDU_BYTES
        )
        association.acse_timeout = association.ae.acse_timeout  # the new reader's timers
        association.network_timeout = association.ae.network_timeout
        association.dimse = StrictMessages(
            association,
            new_data_set=lambda: DataSetBuffer(bounds.spool),
            on_refused=self.server.on_refused,
        )
        association.dul.socket = _PatientSocket(association, client_socket=self.request)
        association.dul.socket.ahead = request
        try:
            trigger(association, EVT_CONN_OPEN, {"address": self.client_address})
            association.start()
            association.join()
        finally:
            self.server.on_end(association)


class StorageAssociationServer(ThreadedAssociationServer):
    """Listens on a port that other processes of the same user may share (SO_REUSEPORT).

    Parameters
    ----------
    address
        Host and port; port 0 takes a free one.
    bounds
        What one peer may cost.
    entrance
        Reads the association request of a new connection.
    connections
        Counts and bounds the connections, over all ports.
    sparse_log
        Decides which of the lines about connections that are one too many are written.
    on_refused
        Called for each object that is refused before the handlers see it.
    on_end
        Called once for every association after its last message has been handled.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        entity: ApplicationEntity,
        address: tuple[str, int],
        contexts: list[PresentationContext],
        *,
        handlers: list[EventHandlerType],
        bounds: Bounds,
        entrance: Entrance,
        connections: Connections,
        sparse_log: SparseLog,
        on_refused: Callable[[Association], None],
        on_end: Callable[[Association], None],
    ) -> None:
        self.bounds, self.entrance, self.connections = bounds, entrance, connections
        self._sparse_log = sparse_log
        self.on_refused, self.on_end = on_refused, on_end
        super().__init__(
            entity,
            address,
            entity.ae_title,
            contexts,
            evt_handlers=handlers,
            request_handler=_ConnectionHandler,
        )
        self._thread = threading.Thread(
            target=self.serve_forever, args=(_POLL_SECONDS,), name="receiver", daemon=True
        )

    def server_bind(self) -> None:
        """Bind; each process of the port gets its share of the connections."""
        listener: socket.socket = self.socket  # type: ignore[assignment]  # typed optional there
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def start(self) -> int:
        """Accept connections in the background; returns the port."""
        self.ae._servers.append(self)
        self._thread.start()
        return int(self.server_address[1])

    def is_listening(self) -> bool:
        """Whether connections are accepted; what ended that is in the log."""
        return self._thread.is_alive()

    def stop_listening(self) -> None:
        """Close the port; associations go on, who has not asked for one is shown out."""
        self.shutdown()
        self.entrance.close()
        self._thread.join()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, if it is not one too many."""
        host = client_address[0]
        limit = self.connections.enter(host)
        if limit is not None:
            self.shutdown_request(request)
            unlogged = self._sparse_log.admit(limit, host)
            if unlogged is not None:
                _log.warning(
                    "connection closed: too many are open",
                    action="connection_refused",
                    reason=limit,
                    host=host,
                    unlogged=unlogged,
                )
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # the system has no thread left
            self.connections.leave(host)
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that failed before it became an association is the peer's affair."""
