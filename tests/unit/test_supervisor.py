"""What the supervisor tells of a process that died."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import pytest
from sqlalchemy import select, text

from dicom_node.config import load_config
from dicom_node.node import Child, Supervisor, prepare
from dicom_node.process import memory_of, utc_now
from dicom_node.store.recovery import return_expired
from dicom_node.store.tables import attempts, jobs
from tests.builders import IMAGE, claim, record, route


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
        assert memory_of(process.pid, peak=True) == child.peak_memory
        process.send_signal(signal)
        process.wait()
        supervisor._watch(child, time.monotonic())
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
