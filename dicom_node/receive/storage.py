"""The Storage and Verification SCP: answers success only for what a sink has made durable."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final, Protocol, cast

import structlog
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import (
    EVT_C_STORE,
    EVT_CONN_OPEN,
    EVT_REQUESTED,
    Event,
    EventHandlerType,
)

from dicom_node.config import DicomConfig
from dicom_node.config_network import ServerTlsConfig
from dicom_node.dimse import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    prepare_pynetdicom,
    prepare_socket,
)
from dicom_node.failpoint import failpoint
from dicom_node.observe.audit import NOT_AUDITED, Audit, AuditEvent, Who
from dicom_node.receive.commitment import CommitmentScp
from dicom_node.receive.contexts import storage_contexts
from dicom_node.receive.door import Door
from dicom_node.receive.entrance import Entrance
from dicom_node.receive.limits import Connections, SparseLog
from dicom_node.receive.part10 import Announcement, Peer
from dicom_node.receive.spool import DataSetBuffer, Spool
from dicom_node.receive.transport import Bounds, StorageAssociationServer
from dicom_node.store.inbox import Ending

# PS3.4 B.2.3; what is refused for its command set alone is answered in `strict`.
SUCCESS: Final = 0x0000
OUT_OF_RESOURCES: Final = 0xA700

_POLL_SECONDS = 0.02
_ABORT_SECONDS = 5.0
_WAITING_SEATS = 200
_log = structlog.get_logger()


class Sink(Protocol):
    """Where the objects of one association go."""

    def write(self, announced: Announcement, data_set: memoryview) -> None:
        """Keep the object, durable on return; OSError: not kept, the sender shall try again."""

    def close(self, ending: Ending) -> None:
        """The association has ended; nothing more comes."""


@dataclass(slots=True)
class _Link:
    """An admitted association and what came through it."""

    peer: Peer
    sink: Sink | None = None
    stored: int = 0
    refused: int = 0


@dataclass(slots=True)
class _Links:
    """The open associations; every access holds the lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    connected: set[Association] = field(default_factory=set)
    admitted: dict[Association, _Link] = field(default_factory=dict)


class StorageScp:
    """Takes associations and hands every object's bytes, as sent, to a sink.

    Parameters
    ----------
    free_bytes
        Free space where the sinks write; below `dicom.minimum_free_bytes` nothing is taken.
    spool_dir
        An existing folder there, for large data sets on their way in.
    open_sink
        Called at the first object of an association.
    commitment
        None: no storage commitment at this port.

    Attributes
    ----------
    tls_port
        Where TLS is spoken, after `start`; None: nowhere.
    """

    def __init__(
        self,
        *,
        ae_title: str,
        dicom: DicomConfig,
        free_bytes: Callable[[], int],
        spool_dir: Path,
        open_sink: Callable[[Peer], Sink],
        audit: Audit = NOT_AUDITED,
        commitment: CommitmentScp | None = None,
    ) -> None:
        self._ae_title = ae_title
        self._dicom = dicom
        self._free_bytes = free_bytes
        self._spool = Spool(spool_dir, dicom.maximum_object_bytes, self._has_room)
        self._open_sink = open_sink
        self._sparse_log = SparseLog()
        self._audit = audit
        self._door = Door(ae_title, dicom, self._sparse_log, audit)
        self._connections = Connections(dicom.max_connections, dicom.max_connections_per_address)
        self._contexts = storage_contexts(dicom.extra_storage_classes)
        self._more_handlers: list[EventHandlerType] = []
        if commitment is not None:
            self._contexts.append(commitment.context())
            self._more_handlers += commitment.handlers()
        self._links = _Links()
        self._servers: list[StorageAssociationServer] = []
        self.tls_port: int | None = None

    def start(self) -> int:
        """Listen; returns the port, that of TLS if it is the only one (see also `tls_port`).

        A port is a free one where the configuration says 0.

        Raises
        ------
        ConfigError
            Certificate, private key or CA file of `dicom.tls` are not usable.
        OSError
            A port cannot be had.
        """
        dicom, port = self._dicom, None
        if dicom.tls is not None:
            port = self.tls_port = self._listen(dicom.tls.port, dicom.tls)
        if dicom.port is not None:
            port = self._listen(dicom.port, None)
        assert port is not None, "the configuration demands one of them"
        return port

    def _listen(self, port: int, tls: ServerTlsConfig | None) -> int:
        prepare_pynetdicom()
        entity = AE(ae_title=self._ae_title)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.maximum_pdu_size = self._dicom.maximum_pdu_bytes
        entity.maximum_associations = sys.maxsize  # `Admission` counts
        entity.acse_timeout = self._dicom.request_timeout.total_seconds()
        entity.dimse_timeout = entity.network_timeout = self._dicom.idle_timeout.total_seconds()
        handlers: list[EventHandlerType] = [
            (EVT_CONN_OPEN, self._on_connected),
            (EVT_REQUESTED, self._on_requested),
            (EVT_C_STORE, self._on_store),
            *self._more_handlers,
        ]
        server = StorageAssociationServer(
            entity,
            (self._dicom.host, port),
            self._contexts,
            handlers=handlers,
            bounds=Bounds(self._dicom.maximum_pdu_bytes, self._spool),
            entrance=Entrance(
                tls=tls,
                request_seconds=entity.acse_timeout,
                seats=_WAITING_SEATS,
                sparse_log=self._sparse_log,
                audit=self._audit,
            ),
            connections=self._connections,
            sparse_log=self._sparse_log,
            on_refused=self._on_refused,
            on_end=self._on_end,
        )
        self._servers.append(server)
        return server.start()

    def stop(self, timeout: timedelta) -> None:
        """Close the ports, let open associations finish for `timeout`, abort the rest."""
        self._door.draining = True
        servers, self._servers = self._servers, []
        for server in servers:
            server.stop_listening()
        self._wait_for_links(timeout.total_seconds())
        for association in self._connected():
            association.abort()
        self._wait_for_links(_ABORT_SECONDS)

    def _connected(self) -> list[Association]:
        with self._links.lock:
            return list(self._links.connected)

    def _wait_for_links(self, limit_seconds: float) -> None:
        deadline = time.monotonic() + limit_seconds
        while self._connected() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def _on_connected(self, event: Event) -> None:
        with self._links.lock:
            self._links.connected.add(event.assoc)
        prepare_socket(event, self._dicom.idle_timeout.total_seconds())

    def _on_requested(self, event: Event) -> None:
        peer = self._door.answer(event.assoc)
        if peer is not None:
            with self._links.lock:
                self._links.admitted[event.assoc] = _Link(peer)

    def _link(self, association: Association) -> _Link:
        with self._links.lock:
            return self._links.admitted[association]

    def _on_store(self, event: Event) -> int:
        """Answer with a chosen status, whatever happens (an escaped error would become 0xC211)."""
        link = self._link(event.assoc)
        try:
            status = self._keep(link, event)
        except OSError as error:
            status = OUT_OF_RESOURCES
            _warn_not_kept(link, f"errno {error.errno}")
        except Exception as error:  # noqa: BLE001 - process edge: the sender must hear "try again"
            status = OUT_OF_RESOURCES
            _warn_not_kept(link, type(error).__name__)
        if status == SUCCESS:
            link.stored += 1
        else:
            link.refused += 1
        return status

    def _keep(self, link: _Link, event: Event) -> int:
        request = cast(C_STORE, event.request)
        announced = Announcement(
            str(request.AffectedSOPClassUID),
            str(request.AffectedSOPInstanceUID).strip(),
            str(event.context.transfer_syntax),
        )
        buffer = cast(DataSetBuffer, request.DataSet)
        if buffer.refused is not None:
            _warn_not_kept(link, buffer.refused)
            return OUT_OF_RESOURCES
        with buffer.getbuffer() as data_set:
            if not self._has_room(len(data_set)):
                _warn_not_kept(link, "free disk space is below dicom.minimum_free_bytes")
                return OUT_OF_RESOURCES
            if link.sink is None:
                link.sink = self._open_sink(link.peer)
            link.sink.write(announced, data_set)
        failpoint("receive.before_answer")
        return SUCCESS

    def _has_room(self, size: int) -> bool:
        return self._free_bytes() >= self._dicom.minimum_free_bytes + size

    def _on_refused(self, association: Association) -> None:
        link = self._link(association)
        _warn_not_kept(link, "its command set names no valid instance of the context's class")
        link.refused += 1

    def _on_end(self, association: Association) -> None:
        with self._links.lock:
            link = self._links.admitted.get(association)
        try:
            if link is not None:
                ending: Ending = "released" if association.is_released else "aborted"
                _close(link, ending)
                self._audit.record(
                    AuditEvent.ASSOCIATION_ENDED,
                    who=Who(ae_title=link.peer.calling_ae_title, host=link.peer.host),
                    ending=ending,
                    stored=link.stored,
                    refused=link.refused,
                )
        finally:
            self._door.leave(association)
            with self._links.lock:
                self._links.admitted.pop(association, None)
                self._links.connected.discard(association)


def _close(link: _Link, ending: Ending) -> None:
    _log.info(
        "association ended",
        action="association_ended",
        ending=ending,
        calling_ae_title=link.peer.calling_ae_title,
        stored=link.stored,
        refused=link.refused,
    )
    if link.sink is None:
        return
    try:
        link.sink.close(ending)
    except OSError as error:
        _log.error(
            "the end of an association could not be recorded",
            action="association_end_not_recorded",
            reason=f"errno {error.errno}",
        )


def _warn_not_kept(link: _Link, reason: str) -> None:
    if not link.refused:  # once an association, or a full disk would fill with its own log
        _log.warning(
            "object not kept, the sender was told so",
            action="object_not_kept",
            reason=reason,
            calling_ae_title=link.peer.calling_ae_title,
        )
