"""A whole node in processes of its own, and DCMTK's tools as its peers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from dicom_node.config import load_config
from dicom_node.node import child_environment
from dicom_node.paths import SHIPPED_CONFIG
from dicom_node.store.database import open_database
from dicom_node.store.overview import job_rows

START_SECONDS = 90.0
# Two shared cores, several processes and a model to load: generous, and only a bound.
RESULT_SECONDS = 150.0
TESTED_MODELS = frozenset({"cxr_pneumonia", "ct_covid"})
ENDED = frozenset({"scored", "delivered", "refused", "parked", "failed"})


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(look: Callable[[], Any], seconds: float, what: str) -> Any:
    """Look until there is something to see."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


def tool(name: str) -> str:
    """Path of one of DCMTK's tools; missing at home skips, missing in CI fails."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed; .ci/run installs dcmtk")
        pytest.skip(f"{name} is not installed (Debian: dcmtk)")
    return found


def marking_routes(path: Path, *, refuse_rows: int | None = None) -> Path:
    """Write rules that score test pictures, however unlike real films a model may find them.

    These are the shipped rules of `TESTED_MODELS` with `out_of_scope: mark`; radiographs of
    `refuse_rows` or more rows keep the shipped `refuse`.
    """
    rules = yaml.safe_load((SHIPPED_CONFIG / "routes.yaml").read_text(encoding="utf-8"))
    routes = []
    for shipped in rules["routes"]:
        if shipped["model"] not in TESTED_MODELS:
            continue
        marking = shipped | {"out_of_scope": "mark"}
        if refuse_rows is not None and shipped["input"] == "images":
            large = {"field": "Rows", "at_least": refuse_rows}
            routes.append(shipped | {"name": "large", "when": [*shipped["when"], large]})
            small = {"field": "Rows", "at_most": refuse_rows - 1}
            marking["when"] = [*shipped["when"], small]
        routes.append(marking)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"routes": routes}), encoding="utf-8")
    return path


class Node:
    """`dicom-node serve` with a home of its own."""

    def __init__(self, home: Path, settings: Mapping[str, Any]) -> None:
        self.home = home
        self.port = free_port()
        self.settings = {
            "home": str(home),
            "routes_file": str(marking_routes(home / "routes.yaml")),
            "dicom": {"port": self.port},
            "web": {"port": 0},
            "completion": {"after_release": 0.5, "quiet": 8},
            "scoring": {"lease": 6},
            "delivery": {"first": 0.5, "ceiling": 2},
            "log": {"format": "json"},
        }
        for key, value in settings.items():
            own = self.settings.get(key)
            self.settings[key] = own | value if isinstance(own, dict) else value
        self.config = load_config(None, self.settings)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.home / "node.log"

    def start(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        said = self.home / "stdout"
        with self.log.open("a") as stderr, said.open("w") as stdout:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dicom_node", "serve"],
                stdout=stdout,
                stderr=stderr,
                env=child_environment(self.settings, os.environ),
            )
        wait_for(
            lambda: "ready " in said.read_text() or self.process.poll() is not None,
            START_SECONDS,
            f"ready, see {self.log}",
        )
        assert self.process.poll() is None, self.log.read_text()[-2000:]

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)

    def stage_pids(self) -> dict[str, int]:
        """Stage name to process id, of the stages that run now."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task")
        found = {}
        for task in children.iterdir():
            for pid in (task / "children").read_text().split():
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"dicom_node" in words:
                    found[words[words.index(b"dicom_node") + 1].decode()] = int(pid)
        return found

    def kill(self, stage: str) -> None:
        """Kill one stage's process without warning."""
        pids = wait_for(lambda: self.stage_pids() if stage in self.stage_pids() else None,
                        START_SECONDS, f"stage {stage} runs")  # fmt: skip
        os.kill(pids[stage], signal.SIGKILL)

    def kill_all(self) -> None:
        """Kill the supervisor and every stage, as a power cut would."""
        assert self.process is not None
        pids = list(self.stage_pids().values())
        self.process.kill()
        self.process.wait()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def jobs(self) -> list[dict[str, Any]]:
        database = open_database(self.config.sqlalchemy_url)
        try:
            with database.read() as connection:
                return job_rows(connection, store_dir=self.config.store_dir)
        finally:
            database.close()

    def wait_for_jobs(
        self, count: int, states: frozenset[str] = ENDED, seconds: float = RESULT_SECONDS
    ) -> list[dict[str, Any]]:
        """Wait until exactly `count` jobs exist and all are in one of `states`."""

        def ended() -> list[dict[str, Any]] | None:
            rows = self.jobs()
            done = [row for row in rows if row["state"] in states]
            return rows if len(rows) == len(done) == count else None

        return wait_for(ended, seconds, f"{count} jobs in {sorted(states)}, see {self.log}")

    def command(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `dicom-node WORDS` with this node's settings."""
        return subprocess.run(
            [sys.executable, "-m", "dicom_node", *words],
            capture_output=True,
            text=True,
            check=check,
            timeout=120,
            env=child_environment(self.settings, os.environ),
        )


@contextmanager
def nodes_in(folder: Path) -> Iterator[Callable[..., Node]]:
    """A function that starts a node with settings; every node is stopped at the end."""
    with ExitStack() as stack:

        def start(name: str = "node", **settings: Any) -> Node:
            node = Node(folder / name, settings)
            stack.callback(node.stop)
            node.start()
            return node

        yield start


class StoreScp:
    """DCMTK's `storescp` as the archive."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def peer(self) -> str:
        return f"ARCHIVE@127.0.0.1:{self.port}"

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        # +uf: unique file names, so that an object that comes twice is seen twice.
        command = [tool("storescp"), "--fork", "-aet", "ARCHIVE", "+uf", "-od", str(self.folder)]
        self._process = subprocess.Popen(
            [*command, str(self.port)], env=dict(os.environ, TCP_NODELAY="1")
        )
        wait_for(self._answers, START_SECONDS, "storescp answers")

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())


def storescu(port: int, files: Sequence[Path], *options: str) -> None:
    """Send files with DCMTK's `storescu`; every one must be acknowledged."""
    subprocess.run(
        [tool("storescu"), "-aet", "MODALITY", "-aec", "DICOM_NODE", *options, "127.0.0.1",
         str(port), *map(str, files)],
        check=True,
        capture_output=True,
        timeout=120,
        env=dict(os.environ, TCP_NODELAY="1"),
    )  # fmt: skip


def read_json(text: str) -> Any:
    """The one JSON document that a command printed."""
    return json.loads(text)
