"""The queue: claims by compare-and-set under a lease, and every way a job can go on.

A claim gives a token; every later write of the worker repeats it in its WHERE clause, so that a
worker whose lease ran out and whose job went to another cannot write (`LeaseLost`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from dicom_node.domain.jobs import JobEvent, JobStage, JobState, next_state
from dicom_node.errors import Transient
from dicom_node.store.events import add_event
from dicom_node.store.moments import is_due
from dicom_node.store.tables import attempts, instances, job_inputs, jobs


class LeaseLost(Transient):
    """The job went to another worker; throw the work away."""


class SuspectIsNext(Exception):
    """The job that is next has lost a worker before: it wants to be worked on alone."""


@dataclass(frozen=True, slots=True)
class JobInput:
    """One instance that a job looks at."""

    sop_instance_uid: str
    path: str
    identity_digest: str


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job that this worker holds until its lease ends."""

    id: int
    token: str
    stage: JobStage
    study_id: int
    study_instance_uid: str
    revision: int
    model: str
    model_version: str
    input_digest: str
    attempts: int
    out_of_scope: str
    result_kinds: tuple[str, ...]
    report_refusals: bool
    destinations: tuple[str, ...]
    prediction_path: str | None
    predecessor_id: int | None
    scored_at: datetime | None
    inputs: tuple[JobInput, ...]


def claim_job(
    connection: Connection,
    *,
    stages: Sequence[JobStage],
    worker: str,
    token: str,
    lease: timedelta,
    now: datetime,
    suspects: bool = True,
) -> ClaimedJob | None:
    """Take the most urgent job that is due, or None.

    Lower `priority` goes first, then whoever waits longest.

    Parameters
    ----------
    suspects
        Whether a job that has been attempted before may be taken.

    Raises
    ------
    SuspectIsNext
        It may not, and the job is one; nothing was taken.
    """
    candidate = connection.execute(
        select(jobs.c.id, jobs.c.attempts)
        .where(
            jobs.c.state == JobState.QUEUED.value,
            jobs.c.stage.in_([stage.value for stage in stages]),
            is_due(jobs.c.run_after, jobs.c.attempts, now),
        )
        .order_by(jobs.c.priority, jobs.c.created_at, jobs.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if candidate is None:
        return None
    if candidate.attempts and not suspects:
        raise SuspectIsNext
    row = connection.execute(
        update(jobs)
        .where(jobs.c.id == candidate.id, jobs.c.state == JobState.QUEUED.value)
        .values(
            state=next_state(JobState.QUEUED, JobEvent.CLAIM).value,
            attempts=jobs.c.attempts + 1,
            lease_token=token,
            lease_until=now + lease,
            worker=worker,
        )
        .returning(*jobs.c)
    ).one_or_none()
    if row is None:
        return None
    connection.execute(
        insert(attempts).values(job_id=row.id, stage=row.stage, worker=worker, started_at=now)
    )
    return _claimed(connection, row)


def _claimed(connection: Connection, row: Row[Any]) -> ClaimedJob:
    query = (
        select(instances.c.sop_instance_uid, instances.c.path, instances.c.identity_digest)
        .join(job_inputs, job_inputs.c.instance_id == instances.c.id)
        .where(job_inputs.c.job_id == row.id)
        .order_by(job_inputs.c.position)
    )
    return ClaimedJob(
        id=row.id,
        token=row.lease_token,
        stage=JobStage(row.stage),
        study_id=row.study_id,
        study_instance_uid=row.study_instance_uid,
        revision=row.revision,
        model=row.model,
        model_version=row.model_version,
        input_digest=row.input_digest,
        attempts=row.attempts,
        out_of_scope=row.out_of_scope,
        result_kinds=tuple(row.result_kinds),
        report_refusals=row.report_refusals,
        destinations=tuple(row.destinations),
        prediction_path=row.prediction_path,
        predecessor_id=row.predecessor_id,
        scored_at=row.scored_at,
        inputs=tuple(JobInput(*item) for item in connection.execute(query)),
    )


def extend_lease(
    connection: Connection, job: ClaimedJob, *, lease: timedelta, now: datetime
) -> None:
    """Heartbeat: push the end of the lease.

    Raises
    ------
    LeaseLost
        The job is no longer this worker's.
    """
    done = connection.execute(_held(job).values(lease_until=now + lease))
    if done.rowcount != 1:
        raise LeaseLost(f"job {job.id}: the lease is gone")


def _held(job: ClaimedJob) -> Any:
    return update(jobs).where(
        jobs.c.id == job.id,
        jobs.c.state == JobState.RUNNING.value,
        jobs.c.lease_token == job.token,
    )


def settle(
    connection: Connection,
    job: ClaimedJob,
    event: JobEvent,
    *,
    now: datetime,
    error: str | None = None,
    **values: Any,
) -> None:
    """Leave state running by `event`, close the attempt and write the event."""
    state = next_state(JobState.RUNNING, event)
    done = connection.execute(
        _held(job).values(state=state.value, lease_token=None, lease_until=None, **values)
    )
    if done.rowcount != 1:
        raise LeaseLost(f"job {job.id}: the lease is gone")
    close_attempt(connection, job.id, outcome=event, error=error, now=now)
    add_event(
        connection,
        at=now,
        action=f"job_{event.value}",
        study_id=job.study_id,
        job_id=job.id,
        detail=error,
    )


def close_attempt(
    connection: Connection, job_id: int, *, outcome: JobEvent, error: str | None, now: datetime
) -> None:
    connection.execute(
        update(attempts)
        .where(attempts.c.job_id == job_id, attempts.c.ended_at.is_(None))
        .values(ended_at=now, outcome=outcome.value, error=error)
    )


def settle_retry(
    connection: Connection, job: ClaimedJob, *, error: str, run_after: datetime, now: datetime
) -> None:
    """Give the job back for a later attempt."""
    settle(
        connection,
        job,
        JobEvent.RETRY_LATER,
        now=now,
        error=error,
        run_after=run_after,
        reason=error,
    )


def release_job(connection: Connection, job: ClaimedJob, *, reason: str, now: datetime) -> None:
    """Give the job back at once; what happened was not its doing and counts as no attempt."""
    settle(
        connection,
        job,
        JobEvent.RETRY_LATER,
        now=now,
        error=reason,
        attempts=max(0, job.attempts - 1),
        run_after=now,
    )


def release_claim(connection: Connection, token: str, *, now: datetime) -> None:
    """Undo a claim whose transaction may or may not have been committed."""
    row = connection.execute(
        update(jobs)
        .where(jobs.c.state == JobState.RUNNING.value, jobs.c.lease_token == token)
        .values(
            state=next_state(JobState.RUNNING, JobEvent.RETRY_LATER).value,
            attempts=jobs.c.attempts - 1,
            lease_token=None,
            lease_until=None,
            run_after=now,
        )
        .returning(jobs.c.id)
    ).one_or_none()
    if row is not None:
        close_attempt(connection, row.id, outcome=JobEvent.RETRY_LATER, error="claim lost", now=now)


def settle_failed(connection: Connection, job: ClaimedJob, *, error: str, now: datetime) -> None:
    """The input cannot be scored; the reason is for a person."""
    settle(
        connection,
        job,
        JobEvent.FAIL,
        now=now,
        error=error,
        reason=error,
        stage=JobStage.DONE.value,
    )


def settle_parked(connection: Connection, job: ClaimedJob, *, error: str, now: datetime) -> None:
    """Something that a person must look at; `jobs retry` brings it back at the same stage."""
    settle(connection, job, JobEvent.PARK, now=now, error=error, reason=error)
