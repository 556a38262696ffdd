"""Receivers in this process and in processes of their own, files to send, bounded waits."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from dicom_node.config import NodeConfig
from dicom_node.config_destinations import DestinationConfig
from dicom_node.config_network import DicomConfig
from dicom_node.receive.scp import Receiver
from dicom_node.store.inbox import AssociationListing, scan

_PROGRAM = """
import sys
from pathlib import Path
from dicom_node.config import NodeConfig
from dicom_node.config_network import DicomConfig
from dicom_node.receive.scp import Receiver
home, port = Path(sys.argv[1]), int(sys.argv[2])
receiver = Receiver(NodeConfig(home=home, dicom=DicomConfig(port=port, minimum_free_bytes=0)))
print("port", receiver.start(), flush=True)
sys.stdin.read()
receiver.stop()
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def start_receiver(home: Path) -> Iterator[Callable[..., tuple[Receiver, DestinationConfig]]]:
    """Start a receiver here on a free port; keywords are `dicom` settings."""
    receivers = []

    def start(**dicom: Any) -> tuple[Receiver, DestinationConfig]:
        settings = {"port": 0, "minimum_free_bytes": 0, **dicom}
        receiver = Receiver(NodeConfig(home=home, ae_title="NODE", dicom=DicomConfig(**settings)))
        port = receiver.start()
        receivers.append(receiver)
        return receiver, DestinationConfig(ae_title="NODE", host="127.0.0.1", port=port)

    yield start
    for receiver in receivers:
        receiver.stop()


@pytest.fixture
def spawn_receiver(
    home: Path,
) -> Iterator[Callable[..., tuple[subprocess.Popen[str], DestinationConfig]]]:
    """Start a receiver in a process of its own; `prefix` goes before its command."""
    processes: list[subprocess.Popen[str]] = []

    def spawn(
        *, port: int = 0, prefix: tuple[str, ...] = ()
    ) -> tuple[subprocess.Popen[str], DestinationConfig]:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-c", _PROGRAM, str(home), str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("port "):
                bound = int(line.split()[1])
                break
        return process, DestinationConfig(ae_title="NODE", host="127.0.0.1", port=bound)

    yield spawn
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def wait_for_endings(home: Path) -> Callable[[int], list[AssociationListing]]:
    """Wait until so many associations have ended; returns all listings."""

    def wait(count: int) -> list[AssociationListing]:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            listings = scan(home / "inbox")
            if sum(listing.ended is not None for listing in listings) >= count:
                return listings
            time.sleep(0.02)
        raise AssertionError(f"no {count} endings: {scan(home / 'inbox')}")

    return wait


@pytest.fixture
def series(tmp_path: Path) -> Callable[[int], list[Path]]:
    """Make so many small CT files, each with a UID of its own."""

    def make(count: int) -> list[Path]:
        dataset = dcmread(get_testdata_file("CT_small.dcm"))
        folder = tmp_path / "series"
        folder.mkdir()
        paths = []
        for number in range(1, count + 1):
            dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.10.1.{number}"
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            paths.append(folder / f"{number:04d}.dcm")
            dataset.save_as(paths[-1])
        return paths

    return make


@pytest.fixture
def tool() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command line tool to its end."""

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        assert shutil.which(str(command[0])), f"{command[0]} is not installed"
        return subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, timeout=60, check=False
        )

    return run
