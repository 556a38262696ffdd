"""The receive stage: a Storage and Verification SCP in front of the inbox."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from dicom_node.config import NodeConfig
from dicom_node.observe.audit import NOT_AUDITED, Audit
from dicom_node.receive.commitment import CommitmentScp
from dicom_node.receive.links import Sink
from dicom_node.receive.part10 import Announcement, Peer, part10_head
from dicom_node.receive.storage import StorageScp
from dicom_node.store.commitment_box import CommitmentBox
from dicom_node.store.inbox import AssociationFolder, Ending, Inbox

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _InboxSink:
    """Objects become Part 10 files in the association's folder."""

    folder: AssociationFolder
    peer: Peer

    def write(self, announced: Announcement, data_set: memoryview) -> None:
        self.folder.write([part10_head(self.peer, announced), data_set])

    def close(self, ending: Ending) -> None:
        self.folder.close(ending)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Receiver:
    """The node's SCP: what it acknowledges lies in the inbox, durable. Needs no database.

    Several processes may run one each on the same port and inbox.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        clock: Callable[[], datetime] = _utc_now,
        audit: Audit = NOT_AUDITED,
    ) -> None:
        self._inbox = Inbox(config.inbox_dir)
        self._clock = clock

        def open_sink(peer: Peer) -> Sink:
            return _InboxSink(self._inbox.open_association(now=self._clock()), peer)

        self._scp = StorageScp(
            ae_title=config.ae_title,
            dicom=config.dicom,
            free_bytes=lambda: free_bytes(config.inbox_dir),
            spool_dir=config.inbox_dir,
            open_sink=open_sink,
            commitment=_commitment(config, clock),
            audit=audit,
        )

    @property
    def tls_port(self) -> int | None:
        """Where TLS is spoken, after `start`; None: nowhere."""
        return self._scp.tls_port

    def start(self) -> int:
        """Mark what dead receivers left behind, then listen; returns as `StorageScp.start`."""
        for folder in self._inbox.mark_orphans():
            _log.warning(
                "an association was cut off by the end of its receiver",
                action="association_orphaned",
                association=folder.name,
            )
        return self._scp.start()

    def is_listening(self) -> bool:
        """Whether every port still accepts connections."""
        return self._scp.is_listening()

    def stop(self, timeout: timedelta = timedelta(seconds=10)) -> None:
        """Take no more associations, let open ones finish for `timeout`, abort the rest."""
        self._scp.stop(timeout)


def uses_commitment(config: NodeConfig) -> bool:
    """Whether senders may ask us for storage commitment, or destinations answer us."""
    asks = any(peer.confirm == "storage_commitment" for peer in config.peers.values())
    return config.dicom.storage_commitment or asks


def _commitment(config: NodeConfig, clock: Callable[[], datetime]) -> CommitmentScp | None:
    if not uses_commitment(config):
        return None
    box = CommitmentBox(config.commitment_dir)
    box.prepare()

    def has_room(size: int) -> bool:
        return free_bytes(config.home) >= config.dicom.minimum_free_bytes + size

    return CommitmentScp(
        box, vouches=config.dicom.storage_commitment, has_room=has_room, clock=clock
    )


def free_bytes(folder: Path) -> int:
    """Bytes that may still be written on the folder's file system."""
    return shutil.disk_usage(folder).free
