"""The SCPs that the attacks are run against, each in processes of its own, and what they use."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.harness import StoreScp, free_port, wait_for
from tests.integration.orthanc import Orthanc

_NODE = """
import sys
from datetime import timedelta
from pathlib import Path
from dicom_node.config import NodeConfig
from dicom_node.config_network import DicomConfig
from dicom_node.receive.scp import Receiver
receiver = Receiver(NodeConfig(home=Path(sys.argv[1]), ae_title="NODE", dicom=DicomConfig(
    port=0, minimum_free_bytes=0, maximum_object_bytes=64 << 20,
    idle_timeout=timedelta(seconds=2), request_timeout=timedelta(seconds=3))))
print("port", receiver.start(), flush=True)
sys.stdin.read()
receiver.stop(timedelta(seconds=1))
"""


@dataclass(frozen=True)
class Use:
    """What a server's processes use together."""

    resident_kb: int
    threads: int
    descriptors: int


@dataclass(frozen=True)
class Server:
    """A running SCP."""

    port: int
    pid: int
    stop: Callable[[], None]

    def use(self) -> Use:
        """Memory, threads and open files of the process and of all it started."""
        sums = [0, 0, 0]
        for pid in _family(self.pid):
            with suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
                sums[0] += _number(status, "VmRSS")
                sums[1] += _number(status, "Threads")
                sums[2] += files
        return Use(*sums)

    def alive(self) -> bool:
        """Whether the process it was started as still runs."""
        with suppress(OSError):
            return "\nState:\tZ" not in Path(f"/proc/{self.pid}/status").read_text()
        return False


def start_node(folder: Path) -> Server:
    """The node's receiver: objects up to 64 MiB, 2 s of patience."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _NODE, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    said = iter(process.stdout)
    port = next(int(line.split()[1]) for line in said if line.startswith("port "))
    reader = threading.Thread(target=lambda: (folder / "out").write_text("".join(said)))
    reader.start()

    def stop() -> None:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(20)
        reader.join(10)
        assert process.stdout is not None
        process.stdout.close()

    return Server(port, process.pid, stop)


def start_storescp(folder: Path) -> Server:
    """DCMTK's `storescp --fork`."""
    scp = StoreScp(folder)
    scp.start()
    assert scp._process is not None
    return Server(scp.port, scp._process.pid, scp.stop)


def start_orthanc(folder: Path) -> Server:
    """Orthanc with the shipped configuration; what it forwards goes nowhere."""
    orthanc = Orthanc(folder, node_port=free_port())
    orthanc.start()
    assert orthanc._process is not None
    return Server(orthanc.dicom_port, orthanc._process.pid, orthanc.kill)


def wait_until_calm(server: Server, before: Use, seconds: float = 15) -> Use:
    """The use once threads and descriptors are back where they were, or at the end of the time."""

    def calm() -> Use | None:
        now = server.use()
        back = now.threads <= before.threads and now.descriptors <= before.descriptors
        return now if back else None

    try:
        use: Use = wait_for(calm, seconds, "calm")
    except AssertionError:
        return server.use()
    return use


def _family(pid: int) -> list[int]:
    family = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                family += _family(int(child))
    return family


def _number(status: str, key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+)", status, re.MULTILINE)
    return int(found[1]) if found else 0
