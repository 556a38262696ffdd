"""The database is away while a worker holds a job: no attempt is counted, no work thrown away."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, select

from dicom_node.domain.jobs import JobStage, JobState
from dicom_node.store.database import Database, DatabaseUnavailable
from dicom_node.store.files import StoreUnavailable, waiting_for_the_disk
from dicom_node.store.jobs import ClaimedJob, LeaseLost
from dicom_node.store.leases import LeasedQueue
from dicom_node.store.outcomes import settle_predicted
from dicom_node.store.tables import attempts, jobs
from dicom_node.store.unsettled import give_back, leave_note
from tests.builders import IMAGE, LEASE, PREDICTION, record, route
from tests.faults.clocks import Clocks


class Failing(Database):
    """A database that can be away: before anything is done, or just after it was committed."""

    def __init__(self, database: Database) -> None:
        super().__init__(database._engine)
        self.away = False
        self.answer_lost = False

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        if self.away:
            raise DatabaseUnavailable("database: away")
        with super().begin() as connection:
            yield connection
        if self.answer_lost:
            raise DatabaseUnavailable("database: the connection was cut at the commit")


class Workers:
    """Two workers on one queue; `mine` has the connection that fails."""

    def __init__(self, database: Database) -> None:
        self.clocks = Clocks()
        self.database = database
        self.failing = Failing(database)
        self.mine = self.new("mine")
        self.other = self.new("other")

    def new(self, worker: str) -> LeasedQueue:
        return LeasedQueue(
            self.failing,
            JobStage.SCORE,
            worker=worker,
            lease=LEASE,
            clock=self.clocks.now,
            elapsed=self.clocks.elapsed,
        )

    def job(self) -> tuple[str, str, int]:
        with self.database.read() as connection:
            row = connection.execute(select(jobs)).one()
            return row.state, row.stage, row.attempts

    def predicted(self, job: ClaimedJob) -> None:
        self.mine.settle(
            lambda connection: settle_predicted(
                connection, job, PREDICTION, prediction_path="p", now=self.clocks.now()
            )
        )


@pytest.fixture
def workers(database: Database) -> Workers:
    record(database, IMAGE)
    route(database)
    return Workers(database)


def test_what_was_computed_is_written_when_the_database_is_back(workers: Workers) -> None:
    job = workers.mine.claim()
    assert job is not None
    workers.failing.away = True
    with pytest.raises(DatabaseUnavailable):
        workers.predicted(job)
    with pytest.raises(DatabaseUnavailable):
        workers.other.return_expired(max_attempts=1)
    workers.clocks.tick(10 * LEASE.total_seconds())
    with pytest.raises(DatabaseUnavailable):
        workers.mine.claim()
    with pytest.raises(DatabaseUnavailable):
        workers.other.return_expired(max_attempts=1)
    workers.failing.away = False

    workers.other.return_expired(max_attempts=1)  # would be the end of the job
    assert workers.job()[0] == JobState.RUNNING
    assert workers.mine.claim() is None
    assert workers.job() == (JobState.QUEUED, JobStage.REPORT, 0)


@pytest.mark.parametrize("error", [DatabaseUnavailable("away"), StoreUnavailable("ENOSPC")])
def test_work_that_the_database_or_the_disk_stops_counts_as_no_attempt(
    workers: Workers, error: Exception
) -> None:
    for _ in range(5):
        job = workers.mine.claim()
        assert job is not None
        with pytest.raises(type(error)), workers.mine.work(job):
            raise error
        assert workers.job() == (JobState.QUEUED, JobStage.SCORE, 0)


def test_a_claim_whose_answer_was_lost_is_undone(workers: Workers) -> None:
    workers.failing.answer_lost = True
    with pytest.raises(DatabaseUnavailable):
        workers.mine.claim()
    assert workers.job() == (JobState.RUNNING, JobStage.SCORE, 1)
    workers.failing.answer_lost = False
    job = workers.mine.claim()
    assert job is not None
    assert job.attempts == 1
    with workers.database.read() as connection:
        open_attempts = select(func.count()).where(attempts.c.ended_at.is_(None))
        assert connection.execute(open_attempts.select_from(attempts)).scalar_one() == 1


def test_a_result_whose_answer_was_lost_is_written_once(workers: Workers) -> None:
    job = workers.mine.claim()
    assert job is not None
    workers.failing.answer_lost = True
    with pytest.raises(DatabaseUnavailable):
        workers.predicted(job)
    workers.failing.answer_lost = False
    with pytest.raises(LeaseLost):
        workers.mine.claim()
    assert workers.mine.claim() is None
    assert workers.job() == (JobState.QUEUED, JobStage.REPORT, 0)


def test_a_worker_that_died_is_still_noticed_after_an_outage(workers: Workers) -> None:
    assert workers.mine.claim() is not None
    workers.failing.away = True
    with pytest.raises(DatabaseUnavailable):
        workers.other.return_expired(max_attempts=2)
    workers.failing.away = False
    workers.clocks.tick((LEASE + timedelta(seconds=11)).total_seconds())
    workers.other.return_expired(max_attempts=2)
    assert workers.job() == (JobState.QUEUED, JobStage.SCORE, 1)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_full_or_read_only_disk_is_transient(number: int) -> None:
    with pytest.raises(StoreUnavailable, match=errno.errorcode[number]), waiting_for_the_disk():
        raise OSError(number, "x")


def test_other_errors_of_the_system_are_not_the_disks() -> None:
    with pytest.raises(FileNotFoundError), waiting_for_the_disk():
        raise FileNotFoundError(errno.ENOENT, "x")


def test_a_worker_that_ends_while_the_database_is_away_costs_its_job_no_attempt(
    workers: Workers, tmp_path: Path
) -> None:
    for _ in range(5):
        worker = workers.new("stopped")
        job = worker.claim()
        assert job is not None
        assert worker.unsettled is None
        workers.failing.away = True
        with pytest.raises(DatabaseUnavailable), worker.work(job):
            raise DatabaseUnavailable("away")
        assert worker.unsettled == job.token
        leave_note(tmp_path, job.token)
        with pytest.raises(DatabaseUnavailable):
            give_back(tmp_path, workers.failing, workers.clocks.now)
        workers.failing.away = False
        workers.clocks.tick(10 * LEASE.total_seconds())
        assert give_back(tmp_path, workers.failing, workers.clocks.now) == 1
        assert workers.job() == (JobState.QUEUED, JobStage.SCORE, 0)
        assert give_back(tmp_path, workers.failing, workers.clocks.now) == 0


def test_a_note_about_a_job_that_went_on_changes_nothing(workers: Workers, tmp_path: Path) -> None:
    job = workers.mine.claim()
    assert job is not None
    leave_note(tmp_path, job.token)
    workers.predicted(job)
    give_back(tmp_path, workers.failing, workers.clocks.now)
    assert workers.job() == (JobState.QUEUED, JobStage.REPORT, 0)
