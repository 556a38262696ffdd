"""Results that were lost before anybody was sent them: the job builds them again.

What may be in an archive is never built again: another object under its UID must not exist.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, Row, delete, select, update

from dicom_node.domain.jobs import JobEvent, JobStage, JobState, next_state
from dicom_node.store.deliveries import PENDING
from dicom_node.store.events import add_event
from dicom_node.store.files import stored
from dicom_node.store.lost_found import put_aside
from dicom_node.store.tables import deliveries, events, jobs, results

_REBUILD = "job_rebuild"


def is_untouched(connection: Connection, job_id: int, *, claimed: str | None = None) -> bool:
    """Whether nothing of a job's results was ever on its way to anybody.

    Parameters
    ----------
    claimed
        Token of the caller's own claim, under which it has sent nothing yet.
    """
    state = connection.execute(select(jobs.c.state).where(jobs.c.id == job_id)).scalar_one()
    rows = connection.execute(
        select(deliveries.c.state, deliveries.c.attempts, deliveries.c.lease_token)
        .where(deliveries.c.job_id == job_id)
        .with_for_update()
    ).all()
    return state in {JobState.SCORED.value, JobState.REFUSED.value} and all(
        row.state == PENDING and row.attempts == _own_attempts(row.lease_token, claimed)
        for row in rows
    )


def _own_attempts(token: str | None, claimed: str | None) -> int:
    return 1 if claimed is not None and token == claimed else 0


def was_built_again(connection: Connection, job_id: int) -> bool:
    """Whether a job has built its results again before: what damages them does so again."""
    query = select(events.c.id).where(events.c.job_id == job_id, events.c.action == _REBUILD)
    return connection.execute(query.limit(1)).first() is not None


def build_again(
    connection: Connection,
    job_id: int,
    *,
    store_dir: Path,
    now: datetime,
    claimed: str | None = None,
) -> bool:
    """Have a job build its results again, from its prediction if that is there.

    What is left of them moves to `lost+found`.

    Parameters
    ----------
    claimed
        As for `is_untouched`.

    Returns
    -------
    bool
        False: somebody may have been sent them; nothing was done.
    """
    job = connection.execute(select(jobs).where(jobs.c.id == job_id).with_for_update()).one()
    if not is_untouched(connection, job_id, claimed=claimed):
        return False
    _put_results_aside(connection, job, store_dir)
    prediction = job.prediction_path and stored(store_dir, job.prediction_path)
    stage = JobStage.REPORT if prediction and prediction.is_file() else JobStage.SCORE
    for table in (deliveries, results):
        connection.execute(delete(table).where(table.c.job_id == job_id))
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(
            state=next_state(JobState(job.state), JobEvent.REBUILD).value,
            stage=stage.value,
            attempts=0,
            run_after=now,
        )
    )
    add_event(
        connection,
        at=now,
        action=_REBUILD,
        study_id=job.study_id,
        job_id=job_id,
        detail="its results were lost before anybody was sent them",
    )
    return True


def _put_results_aside(connection: Connection, job: Row[tuple[int]], store_dir: Path) -> None:
    query = select(results.c.path).where(results.c.job_id == job.id)
    for path in connection.execute(query).scalars():
        file = stored(store_dir, path)
        if file is not None and file.exists():
            put_aside(store_dir, file)
