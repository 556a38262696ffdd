"""A small receiving archive for the demo and the tests: the node's own SCP and a folder."""

from __future__ import annotations

import threading
from pathlib import Path

from pydicom import dcmread

from dicom_node.config import load_config
from dicom_node.receive.scp import Receiver
from dicom_node.store.inbox import remove_if_done, scan

FILING_SECONDS = 0.05


class Archive:
    """Keeps what it receives as `<SOP Instance UID>.dcm` in one folder.

    Parameters
    ----------
    folder
        Exists; `.inbox` in it is where files arrive first.
    port
        0 takes a free one.
    """

    def __init__(self, folder: Path, ae_title: str, port: int = 0) -> None:
        self.folder = folder
        overrides = {
            "home": folder / ".incoming",
            "ae_title": ae_title,
            "dicom": {"port": port, "minimum_free_bytes": 0},
        }
        self._config = load_config(None, overrides)
        self._receiver = Receiver(self._config)
        self._stop = threading.Event()
        self._filing = threading.Thread(target=self._file, name="archive", daemon=True)

    def start(self) -> int:
        """Listen; returns the bound port."""
        self._config.inbox_dir.mkdir(parents=True, exist_ok=True)
        port = self._receiver.start()
        self._filing.start()
        return port

    def stop(self) -> None:
        """Stop listening and file what has arrived."""
        self._receiver.stop(timeout=5)
        self._stop.set()
        self._filing.join()

    def _file(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stop.wait(FILING_SECONDS)
            for listing in scan(self._config.inbox_dir):
                for path in listing.files:
                    # UIDs become names here: digits and dots alone.
                    uid = str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)
                    if uid.replace(".", "").isdigit():
                        path.replace(self.folder / f"{uid}.dcm")
                if listing.ended:
                    remove_if_done(listing.folder)
