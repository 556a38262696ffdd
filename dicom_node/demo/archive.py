"""A small archive: takes every storage class and keeps each object as a file of its own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pynetdicom.presentation import AllStoragePresentationContexts

from dicom_node.config_network import DicomConfig
from dicom_node.receive.links import Sink
from dicom_node.receive.part10 import Announcement, Peer, part10_head
from dicom_node.receive.storage import StorageScp
from dicom_node.store.files import make_folder, write_durably
from dicom_node.store.inbox import Ending


@dataclass(frozen=True, slots=True)
class _FolderSink:
    folder: Path
    peer: Peer

    def write(self, announced: Announcement, data_set: memoryview) -> None:
        # The UID has been checked to be digits and dots; dots alone would name a folder.
        name = announced.sop_instance_uid.strip(".")
        content = part10_head(self.peer, announced) + bytes(data_set)
        write_durably(self.folder / f"{name}.dcm", content)

    def close(self, ending: Ending) -> None:
        """Every object is complete on its own."""


class Archive:
    """Receives on `host`; an object that comes again replaces the one before.

    Parameters
    ----------
    folder
        Where `<SOP Instance UID>.dcm` files are written; made if missing.
    port
        0 takes a free one.
    """

    def __init__(
        self, folder: Path, *, ae_title: str = "ARCHIVE", host: str = "127.0.0.1", port: int = 0
    ) -> None:
        make_folder(folder)
        self.folder = folder
        self.ae_title = ae_title

        def open_sink(peer: Peer) -> Sink:
            return _FolderSink(folder, peer)

        storage_classes = tuple(
            str(context.abstract_syntax) for context in AllStoragePresentationContexts
        )
        self._scp = StorageScp(
            ae_title=ae_title,
            dicom=DicomConfig(
                host=host, port=port, extra_storage_classes=storage_classes, minimum_free_bytes=0
            ),
            free_bytes=lambda: shutil.disk_usage(folder).free,
            spool_dir=folder,
            open_sink=open_sink,
        )

    def start(self) -> int:
        """Listen; returns the port."""
        return self._scp.start()

    def stop(self) -> None:
        """Close the port and end every association."""
        self._scp.stop(timedelta(seconds=1))
