"""What the supervisor tells of a process that died."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select, text

from dicom_node.config import load_config
from dicom_node.node import Child, Supervisor, prepare
from dicom_node.process import memory_of, utc_now
from dicom_node.store.recovery import return_expired
from dicom_node.store.tables import attempts, jobs
from tests.builders import IMAGE, claim, record, route
from tests.conftest import Logged


def join_lease_threads() -> None:
    for thread in threading.enumerate():
        if thread.name == "leases":
            thread.join(30)
            assert not thread.is_alive()


def end(supervisor: Supervisor, child: Child) -> None:
    """Drain; a pipe that it leaves open is a warning, hence a failure."""
    supervisor.children = [child]
    supervisor._drain()
    for thread in threading.enumerate():
        if thread.name == f"reports {child.name}":
            thread.join(30)


@contextmanager
def no_descriptor_free() -> Iterator[None]:
    """Let the system give this process no more files, sockets or pipes."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        next_free = stack.enter_context(Path("/dev/null").open()).fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_free, limits[1]))
        yield


@pytest.mark.parametrize(("signal", "name"), [(9, "SIGKILL"), (11, "SIGSEGV"), (14, "SIGALRM")])
def test_a_signal_that_kills_a_worker_twice_is_evidence_at_its_job(
    tmp_path: Path, signal: int, name: str
) -> None:
    config = load_config(None, {"home": tmp_path})
    database = prepare(config)
    supervisor = Supervisor(config, {}, lambda *_: None)
    record(database, IMAGE)
    route(database)
    for number in (1, 2):
        process = subprocess.Popen(["sleep", "60"], text=True)
        child = Child("score-worker", [], process, started=time.monotonic())
        assert claim(database, token=str(number), now=utc_now()) is not None
        with database.begin() as connection:
            worker = f"{socket.gethostname()}:{process.pid}"
            connection.execute(text("UPDATE jobs SET worker = :w"), {"w": worker})
        supervisor._watch(child, time.monotonic())
        assert 0 < child.peak_memory <= (memory_of(process.pid, peak=True) or 0)
        process.send_signal(signal)
        process.wait()
        supervisor._watch(child, time.monotonic())
        join_lease_threads()
        with database.begin() as connection:
            assert return_expired(connection, max_attempts=2, now=utc_now()) == [1]
    with database.read() as connection:
        reason = connection.execute(select(jobs.c.reason)).scalar_one()
        tried = connection.execute(select(attempts)).all()
    assert f"killed by signal {signal} ({name})" in reason
    assert len(tried) == 2
    for attempt in tried:
        assert name in attempt.error
        assert attempt.ended_at >= attempt.started_at
        assert attempt.peak_memory_bytes > 0
    database.close()


def test_a_stage_that_cannot_be_started_is_tried_again_and_the_others_run_on(
    tmp_path: Path, logged: Logged
) -> None:
    supervisor = Supervisor(load_config(None, {"home": tmp_path}), os.environ, lambda *_: None)
    child = Child("receive", ["--version"])
    now = time.monotonic()
    with no_descriptor_free():
        supervisor._watch(child, now)
    assert child.process is None
    assert "stage_not_started" in logged.getvalue()
    assert "EMFILE" in logged.getvalue()

    supervisor._watch(child, now)
    assert child.process is None, "it waits for its pause"
    supervisor._watch(child, child.not_before)
    assert child.process is not None
    assert child.process.wait(60) == 0
    end(supervisor, child)


def test_stray_bytes_of_a_library_do_not_end_the_reading_of_a_stage(tmp_path: Path) -> None:
    said = b"\xff\xfe stray\n" + json.dumps({"ready": {"web_port": 7}}).encode() + b"\n"
    (tmp_path / "sitecustomize.py").write_text(f"import os\nos.write(1, {said!r})\n")
    heard: list[tuple[str, dict[str, object]]] = []
    environment = dict(os.environ) | {"PYTHONPATH": str(tmp_path)}
    supervisor = Supervisor(
        load_config(None, {"home": tmp_path}), environment, lambda *report: heard.append(report)
    )
    child = Child("web", ["--version"])
    supervisor._watch(child, time.monotonic())
    assert child.process is not None
    child.process.wait(60)
    deadline = time.monotonic() + 10
    while not heard and time.monotonic() < deadline:
        supervisor._pass_reports()
        time.sleep(0.02)
    assert heard == [("web", {"web_port": 7})]
    end(supervisor, child)


def test_the_supervisor_waits_for_no_database(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://node@127.0.0.1:{silent.getsockname()[1]}/node?connect_timeout=2"
        config = load_config(None, {"home": tmp_path, "database_url": url})
        process = subprocess.Popen(["true"], text=True)
        process.wait()
        child = Child("deliver", [], process, pause=1e12)
        started = time.monotonic()
        Supervisor(config, {}, lambda *_: None)._watch(child, started)
        assert time.monotonic() - started < 1
        assert child.process is None
        join_lease_threads()
