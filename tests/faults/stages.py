"""The node's stages as processes that may die at any moment and are back in a second.

The stages run the very functions behind `dicom-node receive`, `assemble`, `score-worker` and
`deliver`. They are forks of one process that has imported what they need (`multiprocessing`'s fork
server), since a scorer that starts from nothing spends ten seconds on importing PyTorch, and a
matrix kills hundreds of them.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import func, select

from dicom_node.config import load_config
from dicom_node.config_destinations import DestinationConfig
from dicom_node.failpoint import VARIABLE
from dicom_node.node import child_environment, prepare
from dicom_node.paths import SHIPPED_CONFIG, SHIPPED_MODELS
from dicom_node.process import how_it_ended, utc_now
from dicom_node.store.recovery import expire_worker
from dicom_node.store.tables import attempts, events
from tests.e2e.harness import free_port, wait_for

STAGES = ("receive", "assemble", "score-worker", "deliver")
MODEL = "cxr_pneumonia"
START_SECONDS = 60.0
WATCH_SECONDS = 0.05
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.faults.preload"])


def _run_stage(stage: str, environment: Mapping[str, str], log: Path) -> None:
    """What a stage's process does; runs in a fork of the fork server."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    os.environ.clear()
    os.environ.update(environment)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from dicom_node.cli import stages

    getattr(stages, stage.replace("-", "_"))()


def radiograph_routes(path: Path, **more: Any) -> Path:
    """Write the shipped rule of the radiograph model alone, which scores test pictures, too.

    Keywords are routes before it: name to what they change.
    """
    rules = yaml.safe_load((SHIPPED_CONFIG / "routes.yaml").read_text(encoding="utf-8"))
    (shipped,) = (item for item in rules["routes"] if item["model"] == MODEL)
    last = shipped | {"out_of_scope": "mark"}
    routes = [*(last | {"name": name} | change for name, change in more.items()), last]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"routes": routes}), encoding="utf-8")
    return path


def _says_ready(log: Path) -> bool:
    return "ready " in log.read_text()


class StageKeeper:
    """Starts every stage, and starts again whichever ends, as `serve` does."""

    def __init__(self, home: Path, settings: Mapping[str, Any]) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self.failpoints = home / "failpoints"
        self.failpoints.mkdir(exist_ok=True)
        models = home / "models"
        models.mkdir(exist_ok=True)
        if not (models / MODEL).exists():
            (models / MODEL).symlink_to(SHIPPED_MODELS / MODEL)
        own: dict[str, Any] = {
            "home": str(home),
            "routes_file": str(radiograph_routes(home / "routes.yaml")),
            "models_dir": str(models),
            "dicom": {"port": free_port(), "minimum_free_bytes": 0},
            "completion": {"after_release": 0.1, "quiet": 2},
            "scoring": {"lease": 3, "max_attempts": 2, "threads": 1},
            "delivery": {"first": 0.2, "ceiling": 1},
            "log": {"format": "json"},
        }
        for key, value in settings.items():
            own[key] = own[key] | value if isinstance(own.get(key), dict) else value
        self.port = int(own["dicom"]["port"])
        self.config = load_config(None, own)
        self.environment = child_environment(own) | {VARIABLE: str(self.failpoints)}
        self.deaths: list[tuple[str, int | None]] = []
        self._processes: dict[str, BaseProcess] = {}
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    @property
    def node(self) -> DestinationConfig:
        """The node as a sender sees it."""
        return DestinationConfig(ae_title=self.config.ae_title, host="127.0.0.1", port=self.port)

    def log(self, stage: str) -> Path:
        return self.home / f"{stage}.log"

    def start(self, stages: Sequence[str] = STAGES) -> None:
        """Start the stages; returns when all of them work."""
        self.database = prepare(self.config)
        for stage in stages:
            self.start_stage(stage)
        self._watcher.start()
        for stage in stages:
            log = self.log(stage)
            wait_for(partial(_says_ready, log), START_SECONDS, f"{stage} ready, see {log}")

    def start_stage(self, stage: str) -> None:
        """Start one stage, which is kept from then on."""
        self.log(stage).touch()
        process = _context.Process(
            target=_run_stage, args=(stage, self.environment, self.log(stage)), daemon=True
        )
        process.start()
        self._processes[stage] = process

    def _watch(self) -> None:
        while not self._stop.wait(WATCH_SECONDS):
            for stage, process in list(self._processes.items()):
                if process.is_alive():
                    continue
                self.deaths.append((stage, process.exitcode))
                self._expire(process.pid, process.exitcode)
                if not self._stop.is_set():
                    self.start_stage(stage)

    def _expire(self, pid: int | None, exit_code: int | None) -> None:
        try:
            with self.database.begin() as connection:
                worker = f"{socket.gethostname()}:{pid}"
                how = how_it_ended(exit_code or 0)
                expire_worker(connection, worker=worker, now=utc_now(), how=how)
        except Exception as error:  # noqa: BLE001 - the database may be what was killed
            print(f"leases not ended: {type(error).__name__}")

    def quarantined(self) -> int:
        """How many jobs were taken for poison."""
        with self.database.read() as connection:
            query = select(events.c.id).where(events.c.action == "job_quarantine")
            return len(connection.execute(query).all())

    def attempts(self) -> dict[str, int]:
        """Most attempts at a job, by stage."""
        count = func.count()
        query = select(attempts.c.stage, count).group_by(attempts.c.job_id, attempts.c.stage)
        most: dict[str, int] = {}
        with self.database.read() as connection:
            for stage, number in connection.execute(
                query.where(attempts.c.outcome != "retry_later")
            ):
                most[stage] = max(number, most.get(stage, 0))
        return most

    def arm(self, step: str, action: str = "kill") -> None:
        """Arm a step of the running processes, once."""
        (self.failpoints / f"{step}.fired").unlink(missing_ok=True)
        ready = self.failpoints / f"{step}.new"
        ready.write_text(action)
        ready.rename(self.failpoints / step)

    def fired(self, step: str) -> bool:
        return (self.failpoints / f"{step}.fired").exists()

    def pid(self, stage: str) -> int:
        found = self._processes[stage].pid
        assert found is not None, "a started process has one"
        return found

    def signal(self, stage: str, number: int) -> None:
        """Send a signal to a stage that runs."""
        os.kill(self.pid(stage), number)

    def stop(self) -> None:
        """End every stage as `serve` does: SIGTERM, wait, SIGKILL."""
        self._stop.set()
        if self._watcher.is_alive():
            self._watcher.join()
        for process in self._processes.values():
            process.terminate()
        deadline = time.monotonic() + 15
        for process in self._processes.values():
            process.join(max(0.1, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        if hasattr(self, "database"):
            self.database.close()
