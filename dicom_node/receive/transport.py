"""pynetdicom's association server with what it lacks: a shared port, patience, a sure end.

It overrides internals of the pinned pynetdicom: nothing else in this package touches them.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.events import EVT_CONN_OPEN, EventHandlerType, trigger
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

_READ_BYTES = 1 << 18
_POLL_SECONDS = 0.1


class _PatientSocket(AssociationSocket):
    """Reads in large pieces; every piece, not only every PDU, shows that the peer is alive.

    Memory follows what has arrived, not the length that a PDU claims.
    """

    def recv(self, nr_bytes: int) -> bytearray:
        connection = self.socket
        received = bytearray()
        while connection is not None and len(received) < nr_bytes:
            piece = connection.recv(min(nr_bytes - len(received), _READ_BYTES))
            if not piece:
                break
            received += piece
            self.assoc.dul._idle_timer.restart()
        return received


class _ConnectionHandler(RequestHandler):
    """Runs in a thread of its own; sees every association to its end, however it ends."""

    server: StorageAssociationServer

    def handle(self) -> None:
        association = self._create_association()
        dul = association.dul
        dul.event_queue.get_nowait()  # the stock socket's announcement: the next one makes its own
        dul.socket = _PatientSocket(association, client_socket=self.request)
        try:
            trigger(association, EVT_CONN_OPEN, {"address": self.client_address})
            association.start()
            association.join()
        finally:
            self.request.close()  # the library leaves it open where the peer has gone
            self.server.on_end(association)


class StorageAssociationServer(ThreadedAssociationServer):
    """Listens on a port that other processes of the same user may share (SO_REUSEPORT).

    Parameters
    ----------
    address
        Host and port; port 0 takes a free one.
    on_end
        Called once for every connection after its last message has been handled.
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
        on_end: Callable[[Association], None],
    ) -> None:
        self.on_end = on_end
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

    def stop_listening(self) -> None:
        """Close the port; what is connected goes on."""
        self.shutdown()
        self._thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that failed before it became an association is the peer's affair."""
