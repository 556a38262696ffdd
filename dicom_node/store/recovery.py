"""How stopped work goes on: expired leases, stopping workers, and a person's `jobs retry`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select, update

from dicom_node.domain.jobs import InvalidTransition, JobEvent, JobStage, JobState, next_state
from dicom_node.store.deliveries import expire_courier, resume_deliveries
from dicom_node.store.events import add_event
from dicom_node.store.evidence import evidence_of, note_evidence
from dicom_node.store.jobs import close_attempt
from dicom_node.store.models import not_offered, offered_version, queue_waiting
from dicom_node.store.moments import has_run_out
from dicom_node.store.tables import instances, job_inputs, jobs, results, studies


def return_expired(connection: Connection, *, max_attempts: int, now: datetime) -> list[int]:
    """Return jobs whose lease ran out to the queue; quarantine those that used up their attempts.

    A lease that ends later than any can was taken before the clock was set back: it ran out, too.

    Returns
    -------
    list of int
        The ids of the jobs touched.
    """
    ran_out = has_run_out(jobs.c.lease_until, now)
    expired = connection.execute(
        select(jobs.c.id, jobs.c.study_id, jobs.c.lease_token, jobs.c.attempts).where(
            jobs.c.state == JobState.RUNNING.value, ran_out
        )
    ).all()
    touched = []
    for row in expired:
        poison = row.attempts >= max_attempts
        event = JobEvent.QUARANTINE if poison else JobEvent.LEASE_EXPIRED
        how = evidence_of(connection, row.id)
        reason = _quarantine_reason(row.attempts, how) if poison else None
        done = connection.execute(
            update(jobs)
            .where(
                jobs.c.id == row.id,
                jobs.c.state == JobState.RUNNING.value,
                jobs.c.lease_token == row.lease_token,
                ran_out,
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
            close_attempt(connection, row.id, outcome=event, error=how or "lease expired", now=now)
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


def _quarantine_reason(count: int, how: str | None) -> str:
    told = f"; the last time {how}" if how else ""
    return f"quarantined: its worker died or hung {count} times{told}"


def expire_worker(
    connection: Connection,
    *,
    worker: str,
    now: datetime,
    how: str | None = None,
    peak_memory_bytes: int | None = None,
) -> None:
    """End the leases of a worker that is known to be dead, so that nobody waits for them.

    Parameters
    ----------
    how, peak_memory_bytes
        How it ended and the most memory that it had, as evidence for the attempts that it leaves.
    """
    held = select(jobs.c.id).where(jobs.c.state == JobState.RUNNING.value, jobs.c.worker == worker)
    note_evidence(connection, held, how=how, peak_memory_bytes=peak_memory_bytes)
    connection.execute(
        update(jobs)
        .where(jobs.c.state == JobState.RUNNING.value, jobs.c.worker == worker)
        .values(lease_until=now)
    )
    expire_courier(connection, worker=worker, now=now)


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
        The job is queued, running, scored or delivered: there is nothing to retry; or retention
        gave up what it needs.
    """
    row = connection.execute(
        select(jobs).where(jobs.c.id == job_id).with_for_update()
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
    _check_bytes(connection, job_id, results_pruned=bool(has_results and row.pruned_at))
    values: dict[str, Any] = {
        "state": state.value,
        "attempts": 0,
        "run_after": now,
        "waived_at": None,
        "waived_because": None,
        "pruned_at": None,
        "pruned_bytes": None,
    }
    if has_results:
        resume_deliveries(connection, job_id, now=now)
        if state is not JobState.REFUSED:
            values["reason"] = None
    else:
        values["reason"] = None
        if not row.model_version or row.stage == JobStage.WAIT_FOR_MODEL.value:
            values["stage"] = JobStage.WAIT_FOR_MODEL.value
            values["reason"] = not_offered(row.model, row.model_version)
        elif row.stage == JobStage.DONE.value:
            values["stage"] = JobStage.SCORE.value
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))
    if version := offered_version(connection, row.model, row.model_version or None):
        queue_waiting(connection, row.model, version, now=now)
    add_event(connection, at=now, action="job_retried", study_id=row.study_id, job_id=job_id)
    return state


def _check_bytes(connection: Connection, job_id: int, *, results_pruned: bool) -> None:
    """Raise InvalidTransition if retention gave up what a retry needs."""
    if results_pruned:
        raise InvalidTransition("its results were pruned; nothing is left to send")
    query = (
        select(func.count())
        .select_from(job_inputs.join(instances, instances.c.id == job_inputs.c.instance_id))
        .where(job_inputs.c.job_id == job_id, instances.c.pruned_at.is_not(None))
    )
    if missing := connection.execute(query).scalar_one():
        raise InvalidTransition(f"{missing} of its images were pruned; send the study again first")


def _route_again(connection: Connection, study_id: int, job_id: int, *, now: datetime) -> None:
    connection.execute(
        update(studies)
        .where(studies.c.id == study_id, studies.c.state == "routed")
        .values(state="complete")
    )
    add_event(connection, at=now, action="study_routed_again", study_id=study_id, job_id=job_id)
