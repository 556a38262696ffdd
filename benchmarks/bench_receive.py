"""Receiving side by side: instances a second of the node and of its peers, in the same minutes.

    python benchmarks/bench_receive.py [--instances 60] [--rounds 5] [--associations 1 4]

The sender is DCMTK's `storescu` with TCP_NODELAY, one process for each association; every server
runs in a process of its own. Rounds alternate between the servers, medians are printed, and the
ratio to `storescp --fork` is what counts: absolute numbers move with the machine.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

ROWS = COLUMNS = 512
BASELINE = "storescp --fork"
NODE = """
import sys
from pathlib import Path
from dicom_node.config import NodeConfig
from dicom_node.config_network import DicomConfig
from dicom_node.receive.scp import Receiver
Receiver(NodeConfig(home=Path(sys.argv[1]), dicom=DicomConfig(port=int(sys.argv[2])))).start()
sys.stdin.read()
"""
PLAIN = """
import itertools, sys
from pathlib import Path
from pynetdicom import AE, AllStoragePresentationContexts, evt
folder, numbers = Path(sys.argv[1]), itertools.count()
def store(event):
    (folder / f"{next(numbers)}.dcm").write_bytes(event.encoded_dataset())
    return 0x0000
entity = AE()
entity.supported_contexts = AllStoragePresentationContexts
entity.add_supported_context("1.2.840.10008.1.1")
entity.start_server(("127.0.0.1", int(sys.argv[2])), evt_handlers=[(evt.EVT_C_STORE, store)])
"""
# Name, whether success means fsynced, command.
SERVERS = {
    "dicom_node": (True, lambda folder, port: [sys.executable, "-c", NODE, folder, port]),
    BASELINE: (False, lambda folder, port: ["storescp", "--fork", "-od", folder, "+uf", port]),
    "plain pynetdicom": (False, lambda folder, port: [sys.executable, "-c", PLAIN, folder, port]),
}


def make_series(folder: Path, count: int) -> list[Path]:
    """CT slices of noise, 512 by 512, 16 bit, 0.5 MB each."""
    random = np.random.default_rng(0)
    paths = []
    for number in range(1, count + 1):
        dataset = Dataset()
        dataset.SOPClassUID = CTImageStorage
        dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.10.2.{number}"
        dataset.StudyInstanceUID = dataset.SeriesInstanceUID = "1.2.826.0.1.3680043.10.2"
        dataset.Rows, dataset.Columns, dataset.BitsAllocated = ROWS, COLUMNS, 16
        dataset.PixelData = random.integers(0, 4096, (ROWS, COLUMNS), np.uint16).tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"{number:04d}.dcm"
        dcmwrite(path, dataset, enforce_file_format=True)
        paths.append(path)
    return paths


def measure(name: str, paths: list[Path], associations: int) -> float:
    """Instances a second that one fresh server acknowledges."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    environment = {**os.environ, "TCP_NODELAY": "1"}
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            SERVERS[name][1](folder, port),
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(port)
            started = time.perf_counter()
            senders = [
                subprocess.Popen(
                    ["storescu", "127.0.0.1", port, *paths[number::associations]], env=environment
                )
                for number in range(associations)
            ]
            codes = [sender.wait() for sender in senders]
            if any(codes):
                raise RuntimeError(f"{name}: a sender failed")
            return len(paths) / (time.perf_counter() - started)
        finally:
            server.kill()
            server.communicate()


def _wait_for(port: str) -> None:
    deadline = time.monotonic() + 30
    while subprocess.run(
        ["echoscu", "127.0.0.1", port], capture_output=True, check=False
    ).returncode:
        if time.monotonic() > deadline:
            raise RuntimeError("the server does not answer")
        time.sleep(0.1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--associations", type=int, nargs="+", default=[1, 4])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = make_series(Path(folder), options.instances)
        for associations in options.associations:
            rates: dict[str, list[float]] = {name: [] for name in SERVERS}
            for _ in range(options.rounds):
                for name, measured in rates.items():
                    measured.append(measure(name, paths, associations))
            medians = {name: statistics.median(measured) for name, measured in rates.items()}
            print(f"{associations} association(s), {options.instances} instances of 0.5 MB")
            for name, median in medians.items():
                durable = "durable before the answer" if SERVERS[name][0] else "not durable"
                ratio = median / medians[BASELINE]
                print(f"  {name:18} {median:7.0f}/s   x{ratio:.2f} of {BASELINE}   {durable}")


if __name__ == "__main__":
    main()
