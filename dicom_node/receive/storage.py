"""The Storage and Verification SCP: answers success only for what a sink has made durable."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Final, cast

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

from dicom_node.config_network import DicomConfig, ServerTlsConfig
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
from dicom_node.receive.limits import Connections, Pace, SparseLog
from dicom_node.receive.links import Link, Links, Sink
from dicom_node.receive.part10 import Announcement, Peer
from dicom_node.receive.spool import DataSetBuffer, Spool
from dicom_node.receive.strict import StrictReader
from dicom_node.receive.transport import Bounds, StorageAssociationServer
from dicom_node.store.inbox import Ending

# PS3.4 B.2.3; what is refused for its command set alone is answered in `strict`.
SUCCESS: Final = 0x0000
OUT_OF_RESOURCES: Final = 0xA700

_ABORT_SECONDS = 5.0
_WAITING_SEATS = 200


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
        self._links = Links()
        self._pace = Pace()
        self._stopping = threading.Event()
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

    def is_listening(self) -> bool:
        """Whether every port still accepts connections."""
        return all(server.is_listening() for server in self._servers)

    def stop(self, timeout: timedelta) -> None:
        """Close the ports, let open associations finish for `timeout`, abort the rest."""
        self._door.draining = True
        self._stopping.set()
        servers, self._servers = self._servers, []
        for server in servers:
            server.stop_listening()
        self._links.wait_until_ended(timeout.total_seconds())
        for association in self._links.connected():
            association.abort()
        self._links.wait_until_ended(_ABORT_SECONDS)

    def _on_connected(self, event: Event) -> None:
        self._links.connect(event.assoc)
        prepare_socket(event, self._dicom.idle_timeout.total_seconds())

    def _on_requested(self, event: Event) -> None:
        peer = self._door.answer(event.assoc)
        if peer is not None:
            self._links.admit(event.assoc, peer)

    def _link(self, association: Association) -> Link:
        link = self._links.find(association)
        assert link is not None, "objects come through admitted associations only"
        return link

    def _on_store(self, event: Event) -> int:
        """Answer with a chosen status, whatever happens (an escaped error would become 0xC211)."""
        link = self._link(event.assoc)
        try:
            status = self._keep(link, event)
        except OSError as error:
            status = OUT_OF_RESOURCES
            link.warn_not_kept(f"errno {error.errno}")
        except Exception as error:  # noqa: BLE001 - process edge: the sender must hear "try again"
            status = OUT_OF_RESOURCES
            link.warn_not_kept(type(error).__name__)
        if status == SUCCESS:
            link.stored += 1
        else:
            link.refused += 1
        self._hold_back(event.assoc, link)
        return status

    def _hold_back(self, association: Association, link: Link) -> None:
        """Let a sender wait for its answer where it sends faster than it may: nothing is refused,
        and nobody else waits."""
        pace = self._door.pace_of(association, link.peer.host)
        seconds = self._pace.wait_for(*pace) if pace is not None else 0.0
        if seconds > 0:
            self._stopping.wait(seconds)
            cast(StrictReader, association.dul).forgive_silence()

    def _keep(self, link: Link, event: Event) -> int:
        request = cast(C_STORE, event.request)
        announced = Announcement(
            str(request.AffectedSOPClassUID),
            str(request.AffectedSOPInstanceUID).strip(),
            str(event.context.transfer_syntax),
        )
        buffer = cast(DataSetBuffer, request.DataSet)
        if buffer.refused is not None:
            link.warn_not_kept(buffer.refused)
            return OUT_OF_RESOURCES
        with buffer.getbuffer() as data_set:
            if not self._has_room(len(data_set)):
                link.warn_not_kept("free disk space is below dicom.minimum_free_bytes")
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
        link.warn_not_kept("its command set names no valid instance of the context's class")
        link.refused += 1

    def _on_end(self, association: Association) -> None:
        link = self._links.find(association)
        try:
            if link is not None:
                ending: Ending = "released" if association.is_released else "aborted"
                link.close(ending)
                self._audit.record(
                    AuditEvent.ASSOCIATION_ENDED,
                    who=Who(ae_title=link.peer.calling_ae_title, host=link.peer.host),
                    ending=ending,
                    stored=link.stored,
                    refused=link.refused,
                )
        finally:
            self._door.leave(association)
            self._links.forget(association)
