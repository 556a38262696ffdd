"""A worker that ends itself blames a job and gives the others back; the blamed one runs alone."""

from __future__ import annotations

import threading
from dataclasses import replace

from dicom_node.domain.jobs import JobStage
from dicom_node.store import jobs, recovery
from dicom_node.store.database import Database
from dicom_node.store.evidence import condemn
from dicom_node.store.leases import LeasedQueue
from dicom_node.store.turns import Turns
from tests.builders import IMAGE, LEASE, NOW, record, route
from tests.contract.test_store import job


def queue_jobs(database: Database, count: int) -> None:
    for number in range(1, count + 1):
        uid = f"1.9.{number}"
        image = replace(
            IMAGE, study_instance_uid=uid, sop_instance_uid=uid, digest=f"{number:064x}"
        )
        record(database, image)
        route(database, digest=image.digest)


def test_only_the_jobs_that_are_blamed_have_an_attempt_counted(database: Database) -> None:
    queue_jobs(database, 3)
    held = []
    for number in (1, 2, 3):
        with database.begin() as connection:
            claimed = jobs.claim_job(
                connection,
                stages=[JobStage.SCORE],
                worker="w",
                token=f"t{number}",
                lease=LEASE,
                now=NOW,
            )
        assert claimed is not None
        held.append(claimed)
    greedy, beside, neighbour = held
    with database.begin() as connection:
        blamed = [greedy, beside]
        condemn(connection, blamed, worker="w", how="memory limit", peak_memory_bytes=9, now=NOW)
        recovery.expire_worker(connection, worker="w", now=NOW, how="ended with status 71")
        recovery.return_expired(connection, max_attempts=1, now=NOW)
    for one in blamed:
        assert "memory limit" in str(job(database, one.id)["reason"])
        assert job(database, one.id)["state"] == "parked"
    assert job(database, neighbour.id)["state"] == "queued"
    assert job(database, neighbour.id)["attempts"] == 0


def test_a_job_that_was_blamed_is_not_even_claimed_while_another_is_worked_on(
    database: Database,
) -> None:
    queue_jobs(database, 1)
    queue = LeasedQueue(database, JobStage.SCORE, worker="w", lease=LEASE, clock=lambda: NOW)
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE jobs SET attempts = 1")
    turns, taken = Turns(), threading.Event()

    def take() -> None:
        with queue.next_job(turns) as suspect:
            assert suspect is not None
            assert suspect.attempts == 2
            taken.set()

    thread = threading.Thread(target=take)
    with turns.take(alone=False):
        thread.start()
        assert not taken.wait(0.3)
        assert job(database, 1)["state"] == "queued"
    thread.join(20)
    assert taken.is_set()


def test_the_first_attempt_needs_nobody_to_wait(database: Database) -> None:
    queue_jobs(database, 1)
    queue = LeasedQueue(database, JobStage.SCORE, worker="w", lease=LEASE, clock=lambda: NOW)
    turns = Turns()
    with turns.take(alone=False), queue.next_job(turns) as first:
        assert first is not None
    with turns.take(alone=False), queue.next_job(turns) as none:
        assert none is None
