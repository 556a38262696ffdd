"""The composition root: builds each stage from the configuration, and supervises them all.

Only this module knows every stage. A stage runs as a process of its own (`dicom-node receive`
and so on); `serve` starts them all and starts again those that die.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from dicom_node.config import NodeConfig
from dicom_node.domain.retention import RetentionPolicy
from dicom_node.errors import Transient
from dicom_node.observe.audit import AuditEvent, AuditTrail
from dicom_node.process import how_it_ended, keep_files_private, memory_of, utc_now, worker_name
from dicom_node.store.database import Database, open_database
from dicom_node.store.files import make_folder
from dicom_node.store.recovery import expire_worker

RESTART_FIRST_SECONDS = 0.5
RESTART_LONGEST_SECONDS = 30.0
HEALTHY_AFTER_SECONDS = 60.0
DRAIN_SECONDS = 30.0
WATCH_SECONDS = 0.2

_log = structlog.get_logger()


def prepare(config: NodeConfig) -> Database:
    """Make the home's folders and open the database, with the newest schema.

    Raises
    ------
    ConfigError
        The database URL is not usable.
    Transient
        The database does not answer.
    """
    keep_files_private()
    for folder in (config.home, config.inbox_dir, config.store_dir):
        make_folder(folder)
    database = open_database(config.sqlalchemy_url)
    database.upgrade()
    return database


def retention_policy(config: NodeConfig) -> RetentionPolicy:
    """The `retention` section as the store takes it."""
    section = config.retention
    return RetentionPolicy(
        delivered=section.delivered,
        refused=section.refused,
        waived=section.waived,
        quarantined=section.quarantined,
        minimum_free_bytes=section.minimum_free_bytes,
    )


def audit_trail(config: NodeConfig, process: str) -> AuditTrail:
    """The audit trail as a stage or command writes it; needs no database."""
    source = f"{config.ae_title}@{socket.gethostname()}"
    return AuditTrail(config.audit_dir, source=source, process=process, clock=utc_now)


def note_settings(config: NodeConfig, trail: AuditTrail) -> None:
    """Let the audit trail tell of settings and rules that differ from the last ones."""
    settings = config.model_dump_json().encode()  # secrets are masked in it
    trail.note_digest(
        AuditEvent.CONFIGURATION_CHANGED, "configuration", hashlib.sha256(settings).hexdigest()
    )
    try:
        rules = hashlib.sha256(config.routes_file.read_bytes()).hexdigest()
    except OSError:
        rules = ""
    trail.note_digest(AuditEvent.CONFIGURATION_CHANGED, "routes", rules)


def stage_commands(config: NodeConfig) -> dict[str, list[str]]:
    """The processes of `serve`: name to the arguments of `dicom-node`."""
    stages = ["receive", "assemble", "score-worker", "deliver"]
    if config.web.port is not None:
        stages.append("web")
    return {name: [name, "--supervised"] for name in stages}


@dataclass(slots=True)
class Child:
    """One supervised process and when it may be started again."""

    name: str
    arguments: Sequence[str]
    process: subprocess.Popen[str] | None = None
    started: float = 0.0
    pause: float = RESTART_FIRST_SECONDS
    not_before: float = 0.0
    peak_memory: int | None = None

    def wait(self, now: float) -> None:
        """Put off the next start, each time for longer."""
        self.not_before = now + self.pause
        self.pause = min(self.pause * 2, RESTART_LONGEST_SECONDS)


@dataclass(slots=True)
class Supervisor:
    """Starts the stages, restarts those that die after growing pauses, drains them at the end.

    Attributes
    ----------
    environment
        For the children; carries the flags of `serve` as `DICOM_NODE_*`.
    on_ready
        Called with (stage, facts) when a stage reports that it works.
    """

    config: NodeConfig
    environment: Mapping[str, str]
    on_ready: Callable[[str, dict[str, Any]], None]
    children: list[Child] = field(default_factory=list)
    _reports: queue.Queue[tuple[str, dict[str, Any]]] = field(default_factory=queue.Queue)

    def run(self, stop: threading.Event) -> None:
        """Supervise until `stop` is set, then drain."""
        commands = stage_commands(self.config)
        self.children = [Child(name, arguments) for name, arguments in commands.items()]
        try:
            while not stop.is_set():
                now = time.monotonic()
                for child in self.children:
                    self._watch(child, now)
                self._pass_reports()
                stop.wait(WATCH_SECONDS)
        finally:
            self._drain()

    def _watch(self, child: Child, now: float) -> None:
        process = child.process
        if process is not None:
            child.peak_memory = memory_of(process.pid, peak=True) or child.peak_memory
            code = process.poll()
            if code is None:
                return
            _log.error("stage died", action="stage_died", stage=child.name, exit_code=code)
            threading.Thread(  # never wait for the database here: stages and stop are watched
                target=self._expire_leases,
                args=(process.pid, how_it_ended(code), child.peak_memory),
                name="leases",
                daemon=True,
            ).start()
            healthy = now - child.started > HEALTHY_AFTER_SECONDS
            child.pause = RESTART_FIRST_SECONDS if healthy else child.pause
            child.wait(now)
            _close_stdin(process)
            child.process = None
        if now >= child.not_before:
            self._start(child, now)

    def _start(self, child: Child, now: float) -> None:
        # A session of its own: Ctrl-C reaches the supervisor alone, which then drains the stages.
        try:
            child.process = subprocess.Popen(
                [sys.executable, "-m", "dicom_node", *child.arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                errors="replace",  # a library's stray bytes must not end the reading
                env=dict(self.environment),
                start_new_session=True,
            )
        except OSError as error:  # no memory, process or descriptor is free: the others run on
            reason = errno.errorcode.get(error.errno or 0, "unknown")
            _log.error(
                "stage not started", action="stage_not_started", stage=child.name, reason=reason
            )
            child.wait(now)
            return
        child.started = now
        child.peak_memory = None
        threading.Thread(
            target=self._read_reports,
            args=(child.name, child.process),
            name=f"reports {child.name}",
            daemon=True,
        ).start()

    def _read_reports(self, name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None, "started with a pipe"
        with process.stdout:
            for line in process.stdout:
                if line.startswith('{"ready"'):
                    self._reports.put((name, json.loads(line)["ready"]))

    def _pass_reports(self) -> None:
        while not self._reports.empty():
            self.on_ready(*self._reports.get())

    def _expire_leases(self, pid: int, how: str, peak_memory: int | None) -> None:
        """What the dead process held goes back at once instead of when its lease ends."""
        database = open_database(self.config.sqlalchemy_url)
        try:
            with database.begin() as connection:
                expire_worker(
                    connection,
                    worker=worker_name(pid),
                    now=utc_now(),
                    how=how,
                    peak_memory_bytes=peak_memory,
                )
        except Transient as error:
            _log.warning("leases not ended", action="leases_not_ended", error=str(error))
        finally:
            database.close()

    def _drain(self) -> None:
        running = [child.process for child in self.children if child.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + DRAIN_SECONDS
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _close_stdin(process)


def _close_stdin(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def child_environment(
    overrides: Mapping[str, Any], base: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Turn command-line overrides into the `DICOM_NODE_*` variables that mean the same."""
    return dict(base) | dict(_flatten("DICOM_NODE", overrides))


def _flatten(prefix: str, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        # One underscore after the prefix, two between levels: pydantic-settings' form.
        name = f"{prefix}{'_' if prefix == 'DICOM_NODE' else '__'}{key.upper()}"
        if isinstance(value, Mapping):
            found += _flatten(name, value)
        elif isinstance(value, list | tuple):
            found.append((name, ",".join(str(item) for item in value)))
        else:
            found.append((name, "null" if value is None else str(value)))
    return found
