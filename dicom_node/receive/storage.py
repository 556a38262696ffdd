"""The Storage and Verification SCP: answers success only for what a sink has made durable."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol, cast

import structlog
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import (
    EVT_ACCEPTED,
    EVT_C_STORE,
    EVT_CONN_OPEN,
    EVT_REQUESTED,
    Event,
    EventHandlerType,
)
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.transport import AddressInformation

from dicom_node.config import DicomConfig
from dicom_node.dimse import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    prepare_pynetdicom,
    prepare_socket,
)
from dicom_node.receive.admission import Admission
from dicom_node.receive.contexts import storage_contexts
from dicom_node.receive.part10 import Announcement, Peer
from dicom_node.receive.transport import StorageAssociationServer
from dicom_node.store.inbox import Ending

# PS3.4 B.2.3 and PS3.7 annex C
SUCCESS: Final = 0x0000
INVALID_SOP_INSTANCE: Final = 0x0117
OUT_OF_RESOURCES: Final = 0xA700
DATA_SET_DOES_NOT_MATCH_SOP_CLASS: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000

_UID_CHARACTERS = frozenset("0123456789.")
_ASSOCIATION_REQUEST_SECONDS = 30.0
_POLL_SECONDS = 0.02
_ABORT_SECONDS = 5.0
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
    open_sink
        Called at the first object of an association.
    """

    def __init__(
        self,
        *,
        ae_title: str,
        dicom: DicomConfig,
        free_bytes: Callable[[], int],
        open_sink: Callable[[Peer], Sink],
    ) -> None:
        self._ae_title = ae_title
        self._dicom = dicom
        self._free_bytes = free_bytes
        self._open_sink = open_sink
        self._admission = Admission(
            ae_title,
            dicom.calling_ae_titles,
            dicom.require_called_ae_title,
            dicom.max_associations,
        )
        self._contexts = storage_contexts(dicom.extra_storage_classes)
        self._links = _Links()
        self._draining = False
        self._server: StorageAssociationServer | None = None

    def start(self) -> int:
        """Listen; returns the port, which is a free one where the configuration says 0."""
        prepare_pynetdicom()
        entity = AE(ae_title=self._ae_title)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.maximum_pdu_size = self._dicom.maximum_pdu_bytes
        entity.maximum_associations = sys.maxsize  # `Admission` counts
        entity.acse_timeout = _ASSOCIATION_REQUEST_SECONDS
        entity.dimse_timeout = entity.network_timeout = self._dicom.idle_timeout.total_seconds()
        handlers: list[EventHandlerType] = [
            (EVT_CONN_OPEN, self._on_connected),
            (EVT_REQUESTED, self._on_requested),
            (EVT_ACCEPTED, self._on_accepted),
            (EVT_C_STORE, self._on_store),
        ]
        self._server = StorageAssociationServer(
            entity,
            (self._dicom.host, self._dicom.port),
            self._contexts,
            handlers=handlers,
            on_end=self._on_end,
        )
        return self._server.start()

    def stop(self, timeout: timedelta) -> None:
        """Close the port, let open associations finish for `timeout`, abort the rest."""
        server, self._server = self._server, None
        if server is None:
            return
        self._draining = True
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
        association = event.assoc
        request = cast(A_ASSOCIATE, association.requestor.primitive)
        address = cast(AddressInformation, association.requestor.address_info)
        peer = Peer(
            calling_ae_title=request.calling_ae_title.strip(),
            called_ae_title=request.called_ae_title.strip(),
            host=address.address,
            port=address.port,
        )
        with self._links.lock:
            refusal = self._admission.refuse(
                calling=peer.calling_ae_title,
                called=peer.called_ae_title,
                open_associations=len(self._links.admitted),
                draining=self._draining,
            )
            if refusal is None:
                self._links.admitted[association] = _Link(peer)
                return
        _log.warning(
            "association refused",
            action="association_refused",
            reason=refusal.name.lower(),
            calling_ae_title=peer.calling_ae_title,
            called_ae_title=peer.called_ae_title,
            host=peer.host,
        )
        association.acse.send_reject(*refusal.value)
        association.kill()

    def _on_accepted(self, event: Event) -> None:
        peer = self._link(event.assoc).peer
        _log.info(
            "association accepted",
            action="association_accepted",
            calling_ae_title=peer.calling_ae_title,
            host=peer.host,
        )

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
        sop_class_uid = str(request.AffectedSOPClassUID)
        sop_instance_uid = str(request.AffectedSOPInstanceUID).strip()
        if request.DataSet is None:
            return CANNOT_UNDERSTAND
        if sop_class_uid != event.context.abstract_syntax:
            return DATA_SET_DOES_NOT_MATCH_SOP_CLASS
        if not sop_instance_uid or not _UID_CHARACTERS.issuperset(sop_instance_uid):
            return INVALID_SOP_INSTANCE
        announced = Announcement(
            sop_class_uid, sop_instance_uid, str(event.context.transfer_syntax)
        )
        with request.DataSet.getbuffer() as data_set:
            if self._free_bytes() < self._dicom.minimum_free_bytes + len(data_set):
                _warn_not_kept(link, "free disk space is below dicom.minimum_free_bytes")
                return OUT_OF_RESOURCES
            if link.sink is None:
                link.sink = self._open_sink(link.peer)
            link.sink.write(announced, data_set)
        return SUCCESS

    def _on_end(self, association: Association) -> None:
        with self._links.lock:
            link = self._links.admitted.get(association)
        try:
            if link is not None:
                _close(link, "released" if association.is_released else "aborted")
        finally:
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
            "object not kept, the sender was told to try again",
            action="object_not_kept",
            reason=reason,
            calling_ae_title=link.peer.calling_ae_title,
        )
