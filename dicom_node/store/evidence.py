"""How attempts ended that nobody lived to settle: what a quarantined job shows a person."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, func, select, update

from dicom_node.domain.jobs import JobEvent, JobState, next_state
from dicom_node.store.jobs import ClaimedJob, close_attempt
from dicom_node.store.tables import attempts, jobs


def note_evidence(
    connection: Connection,
    job_ids: Select[Any],
    *,
    how: str | None,
    peak_memory_bytes: int | None = None,
) -> None:
    """Write into the open attempts of jobs how their worker ended; what is known already stays."""
    connection.execute(
        update(attempts)
        .where(attempts.c.job_id.in_(job_ids), attempts.c.ended_at.is_(None))
        .values(
            error=func.coalesce(attempts.c.error, how),
            peak_memory_bytes=func.coalesce(attempts.c.peak_memory_bytes, peak_memory_bytes),
        )
    )


def evidence_of(connection: Connection, job_id: int) -> str | None:
    """What `note_evidence` wrote into a job's open attempt."""
    return connection.execute(
        select(attempts.c.error)
        .where(attempts.c.job_id == job_id, attempts.c.ended_at.is_(None))
        .limit(1)
    ).scalar_one_or_none()


def condemn(
    connection: Connection,
    blamed: Sequence[ClaimedJob],
    *,
    worker: str,
    how: str,
    peak_memory_bytes: int | None,
    now: datetime,
) -> None:
    """Record that a worker is about to end itself because of a job, or of one of several.

    Their leases end, so that the attempts count; whatever else the worker holds goes back without
    counting one.
    """
    mine = jobs.c.lease_token.in_([job.token for job in blamed])
    running = jobs.c.state == JobState.RUNNING.value
    condemned = select(jobs.c.id).where(running, mine)
    note_evidence(connection, condemned, how=how, peak_memory_bytes=peak_memory_bytes)
    connection.execute(update(jobs).where(running, mine).values(lease_until=now))
    others = connection.execute(
        update(jobs)
        .where(running, jobs.c.worker == worker, ~mine)
        .values(
            state=next_state(JobState.RUNNING, JobEvent.RETRY_LATER).value,
            attempts=jobs.c.attempts - 1,
            lease_token=None,
            lease_until=None,
            run_after=now,
        )
        .returning(jobs.c.id)
    ).scalars()
    numbers = ", ".join(str(job.id) for job in blamed)
    for job_id in others.all():
        close_attempt(
            connection,
            job_id,
            outcome=JobEvent.RETRY_LATER,
            error=f"its worker was ended because of job {numbers}",
            now=now,
        )
