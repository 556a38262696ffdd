"""How stopped work goes on: expired leases, stopping workers, and a person's `jobs retry`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update

from dicom_node.domain.jobs import JobEvent, JobStage, JobState, next_state
from dicom_node.store.deliveries import resume_deliveries
from dicom_node.store.events import add_event
from dicom_node.store.jobs import close_attempt
from dicom_node.store.tables import jobs, results, studies


def return_expired(connection: Connection, *, max_attempts: int, now: datetime) -> list[int]:
    """Return jobs whose lease ran out to the queue; quarantine those that used up their attempts.

    Returns
    -------
    list of int
        The ids of the jobs touched.
    """
    expired = connection.execute(
        select(jobs.c.id, jobs.c.study_id, jobs.c.lease_token, jobs.c.attempts).where(
            jobs.c.state == JobState.RUNNING.value, jobs.c.lease_until <= now
        )
    ).all()
    touched = []
    for row in expired:
        poison = row.attempts >= max_attempts
        event = JobEvent.QUARANTINE if poison else JobEvent.LEASE_EXPIRED
        reason = f"quarantined: its worker died or hung {row.attempts} times" if poison else None
        done = connection.execute(
            update(jobs)
            .where(
                jobs.c.id == row.id,
                jobs.c.state == JobState.RUNNING.value,
                jobs.c.lease_token == row.lease_token,
                jobs.c.lease_until <= now,
            )
            .values(
                state=next_state(JobState.RUNNING, event).value,
                lease_token=None,
                lease_until=None,
                reason=reason,
                run_after=now,
            )
        )
        if done.rowcount == 1:
            close_attempt(connection, row.id, outcome=event, error="lease expired", now=now)
            add_event(
                connection,
                at=now,
                action=f"job_{event.value}",
                study_id=row.study_id,
                job_id=row.id,
                detail=reason,
            )
            touched.append(row.id)
    return touched


def expire_worker(connection: Connection, *, worker: str, now: datetime) -> None:
    """End the leases of a worker that is known to be dead, so that nobody waits for them."""
    connection.execute(
        update(jobs)
        .where(jobs.c.state == JobState.RUNNING.value, jobs.c.worker == worker)
        .values(lease_until=now)
    )


def retry_job(connection: Connection, job_id: int, *, now: datetime) -> JobState | None:
    """Bring a parked, failed or refused job back, at a person's request.

    A job whose results exist goes back to delivery; any other to the stage it stopped at. A study
    that no route took is put before the rules again: a job that they make then is a new one.

    Returns
    -------
    JobState or None
        The new state; None if there is no such job.

    Raises
    ------
    InvalidTransition
        The job is queued, running, scored or delivered: there is nothing to retry.
    """
    row = connection.execute(
        select(jobs.c.state, jobs.c.stage, jobs.c.study_id, jobs.c.model)
        .where(jobs.c.id == job_id)
        .with_for_update()
    ).one_or_none()
    if row is None:
        return None
    if not row.model:
        _route_again(connection, row.study_id, job_id, now=now)
        return JobState(row.state)
    has_results = connection.execute(
        select(results.c.id).where(results.c.job_id == job_id).limit(1)
    ).first()
    event = JobEvent.RESUME_DELIVERY if has_results else JobEvent.RESUME_SCORING
    state = next_state(JobState(row.state), event)
    values: dict[str, Any] = {"state": state.value, "attempts": 0, "run_after": now}
    if has_results:
        resume_deliveries(connection, job_id, now=now)
        if state is not JobState.REFUSED:
            values["reason"] = None
    else:
        values["reason"] = None
        if row.stage in {JobStage.DONE.value, JobStage.WAIT_FOR_MODEL.value}:
            values["stage"] = JobStage.SCORE.value
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))
    add_event(connection, at=now, action="job_retried", study_id=row.study_id, job_id=job_id)
    return state


def _route_again(connection: Connection, study_id: int, job_id: int, *, now: datetime) -> None:
    connection.execute(
        update(studies)
        .where(studies.c.id == study_id, studies.c.state == "routed")
        .values(state="complete")
    )
    add_event(connection, at=now, action="study_routed_again", study_id=study_id, job_id=job_id)
