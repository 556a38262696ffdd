"""The wall clock is set by an hour, both ways: nothing waits for it, nobody loses its job."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from dicom_node.assemble.worker import Assembler
from dicom_node.domain.jobs import JobStage, JobState
from dicom_node.domain.study import CompletionPolicy
from dicom_node.store import deliveries, jobs, settlements, studies
from dicom_node.store.database import Database
from dicom_node.store.leases import LONGEST_SILENCE, LeasedQueue
from dicom_node.store.tables import jobs as jobs_table
from dicom_node.store.tables import studies as studies_table
from tests.builders import IMAGE, LEASE, record, route, scored_job
from tests.faults.clocks import Clocks

HOUR = timedelta(hours=1)
BOTH_WAYS = pytest.mark.parametrize("step", [HOUR, -HOUR], ids=["forward", "back"])
GRACE = (LEASE + LONGEST_SILENCE).total_seconds()


def queue(database: Database, clocks: Clocks, worker: str = "w") -> LeasedQueue:
    return LeasedQueue(
        database,
        JobStage.SCORE,
        worker=worker,
        lease=LEASE,
        clock=clocks.now,
        elapsed=clocks.elapsed,
    )


def state(database: Database) -> str:
    with database.read() as connection:
        found: str = connection.execute(jobs_table.select()).one().state
        return found


@BOTH_WAYS
def test_a_queued_job_does_not_wait_for_the_clock(database: Database, step: timedelta) -> None:
    clocks = Clocks()
    record(database, IMAGE)
    route(database, now=clocks.now())
    clocks.set(step)
    assert queue(database, clocks).claim() is not None


def test_a_job_that_waits_for_its_next_attempt_waits_minutes_not_an_hour(
    database: Database,
) -> None:
    clocks = Clocks()
    record(database, IMAGE)
    route(database, now=clocks.now())
    held = queue(database, clocks).claim()
    assert held is not None
    with database.begin() as connection:
        later = clocks.now() + timedelta(minutes=5)
        jobs.settle_retry(connection, held, error="x", run_after=later, now=clocks.now())
    assert queue(database, clocks).claim() is None
    clocks.set(-HOUR)
    assert queue(database, clocks).claim() is not None


@BOTH_WAYS
def test_a_living_worker_keeps_its_job(database: Database, step: timedelta) -> None:
    clocks = Clocks()
    record(database, IMAGE)
    route(database, now=clocks.now())
    holder, other = queue(database, clocks, "holder"), queue(database, clocks, "other")
    held = holder.claim()
    assert held is not None
    clocks.set(step)
    for _ in range(10):  # it beats three times a lease, whatever the clock says
        other.return_expired(max_attempts=1)
        assert state(database) == JobState.RUNNING
        clocks.tick(LEASE.total_seconds() / 3)
        with database.begin() as connection:
            jobs.extend_lease(connection, held, lease=LEASE, now=clocks.now())


@BOTH_WAYS
def test_a_dead_workers_job_is_taken_over_within_a_lease_and_a_pause(
    database: Database, step: timedelta
) -> None:
    clocks = Clocks()
    record(database, IMAGE)
    route(database, now=clocks.now())
    other = queue(database, clocks, "other")
    assert queue(database, clocks, "dead").claim() is not None
    clocks.set(step)
    other.return_expired(max_attempts=2)
    assert state(database) == JobState.RUNNING
    clocks.tick(GRACE + 1)
    other.return_expired(max_attempts=2)
    assert state(database) == JobState.QUEUED


@BOTH_WAYS
def test_deliveries_go_on(database: Database, step: timedelta) -> None:
    clocks = Clocks()
    scored_job(database)
    with database.begin() as connection:
        dead = deliveries.claim_deliveries(
            connection, destination="PACS", token="dead", lease=LEASE, limit=8, now=clocks.now()
        )
        waiting = deliveries.claim_deliveries(
            connection, destination="ARCHIVE", token="t", lease=LEASE, limit=8, now=clocks.now()
        )
        for delivery in waiting:
            later = clocks.now() + timedelta(minutes=15)
            settlements.settle_postponed(connection, delivery, error="x", run_after=later)
    assert (len(dead), len(waiting)) == (1, 1)
    clocks.set(step)
    with database.begin() as connection:
        due = deliveries.due_destinations(connection, now=clocks.now())
        assert sorted(due) == ["ARCHIVE", "PACS"]
        for destination in due:
            taken = deliveries.claim_deliveries(
                connection,
                destination=destination,
                token="u",
                lease=LEASE,
                limit=8,
                now=clocks.now(),
            )
            assert len(taken) == 1


def test_the_leases_of_a_dead_courier_end_with_it(database: Database) -> None:
    clocks = Clocks()
    scored_job(database)

    def claim(worker: str) -> int:
        with database.begin() as connection:
            taken = deliveries.claim_deliveries(
                connection,
                destination="PACS",
                token=deliveries.courier_token(worker),
                lease=LEASE,
                limit=8,
                now=clocks.now(),
            )
            return len(taken)

    assert claim("host:1") == 1
    with database.begin() as connection:
        deliveries.expire_courier(connection, worker="host:2", now=clocks.now())
    assert claim("host:3") == 0
    with database.begin() as connection:
        deliveries.expire_courier(connection, worker="host:1", now=clocks.now())
    assert claim("host:3") == 1


QUIET = timedelta(seconds=20)


@pytest.fixture
def assembling(database: Database, tmp_path: Path) -> tuple[Assembler, Clocks]:
    clocks = Clocks()
    policy = CompletionPolicy(timedelta(seconds=2), QUIET, timedelta(minutes=10))
    assembler = Assembler(
        database,
        tmp_path / "inbox",
        tmp_path / "store",
        policy,
        frozenset(),
        clocks.now,
        clocks.elapsed,
    )
    return assembler, clocks


def study_state(database: Database) -> str:
    with database.read() as connection:
        found: str = connection.execute(studies_table.select()).one().state
        return found


@BOTH_WAYS
def test_a_study_completes_after_its_quiet_time_neither_at_once_nor_in_an_hour(
    assembling: tuple[Assembler, Clocks], database: Database, step: timedelta
) -> None:
    assembler, clocks = assembling
    record(database, replace(IMAGE, received_at=clocks.now()))
    assembler.step()
    clocks.set(step)
    clocks.tick(1)
    assembler.step()
    assert study_state(database) == "receiving"
    clocks.tick(QUIET.total_seconds())
    assembler.step()
    assert study_state(database) == "complete"


def test_a_study_from_before_a_start_with_the_clock_set_back_completes_after_its_quiet_time(
    assembling: tuple[Assembler, Clocks], database: Database
) -> None:
    assembler, clocks = assembling
    record(database, replace(IMAGE, received_at=clocks.now() + HOUR))
    with database.begin() as connection:
        studies.end_association(connection, IMAGE.association, at=clocks.now() + HOUR)
    assembler.step()
    assert study_state(database) == "receiving"
    clocks.tick(QUIET.total_seconds())
    assembler.step()
    assert study_state(database) == "complete"
