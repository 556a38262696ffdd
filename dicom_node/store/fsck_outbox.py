"""Results and their deliveries: each object is in the outbox once for each destination."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from sqlalchemy import ColumnElement, Connection, and_, or_, select

from dicom_node.domain.jobs import JobState
from dicom_node.store.deliveries import add_deliveries
from dicom_node.store.fsck import Problem, Survey
from dicom_node.store.tables import deliveries, jobs, results

_RESTORE = "restore the database from a backup, and report it: this is a defect"


def check_deliveries(survey: Survey) -> Iterator[Problem]:
    """Deliveries that could send nothing, or another job's result."""
    query = (
        select(
            deliveries.c.id,
            deliveries.c.job_id,
            deliveries.c.destination,
            results.c.job_id.label("made_by"),
        )
        .join(results, results.c.id == deliveries.c.result_id, isouter=True)
        .where(or_(results.c.id.is_(None), results.c.job_id != deliveries.c.job_id))
        .order_by(deliveries.c.id)
    )
    with survey.database.read() as connection:
        rows = connection.execute(query).all()
    for row in rows:
        where = f"delivery {row.id} to {row.destination}"
        if row.made_by is None:
            what = f"{where} names a result that is in no row"
            yield Problem("delivery_without_result", what, _RESTORE, jobs=(row.job_id,))
        else:
            what = f"{where} names a result of another job"
            both = (row.job_id, row.made_by)
            yield Problem("delivery_of_another_job", what, _RESTORE, jobs=both)


def check_outbox(survey: Survey) -> Iterator[Problem]:
    """Results that are in nobody's outbox: their job would wait, or count as delivered."""
    with survey.database.read() as connection:
        missing = _missing(connection, _expects_deliveries())
        waiting = {job_id for job_id, _, _ in _missing(connection, _is_waiting())}
    for job_id in sorted({job_id for job_id, _, _ in missing}):
        names = sorted({name for other, _, name in missing if other == job_id})
        waits = job_id in waiting
        yield Problem(
            "not_in_outbox",
            "a result has no delivery to " + ", ".join(names),
            "--repair puts it into the outbox" if waits else _RESTORE,
            jobs=(job_id,),
            repair=partial(_put_into_outbox, survey, job_id) if waits else None,
        )


def _expects_deliveries() -> ColumnElement[bool]:
    """Jobs whose results were put into the outbox, unless a person gave them up."""
    states = (JobState.SCORED, JobState.REFUSED, JobState.DELIVERED)
    return and_(jobs.c.state.in_([state.value for state in states]), jobs.c.waived_at.is_(None))


def _is_waiting() -> ColumnElement[bool]:
    """Jobs that do not count as delivered yet."""
    states = (JobState.SCORED, JobState.REFUSED)
    return and_(
        jobs.c.state.in_([state.value for state in states]),
        jobs.c.delivered_at.is_(None),
        jobs.c.waived_at.is_(None),
        jobs.c.pruned_at.is_(None),
    )


def _missing(connection: Connection, which: ColumnElement[bool]) -> list[tuple[int, int, str]]:
    """Job, result and destination for which there is no delivery."""
    # In this order: whoever sees a result sees the deliveries of its transaction.
    made = connection.execute(
        select(results.c.id, results.c.job_id, jobs.c.destinations)
        .join(jobs, jobs.c.id == results.c.job_id)
        .where(which)
        .order_by(results.c.id)
    ).all()
    there = {
        (row.result_id, row.destination)
        for row in connection.execute(select(deliveries.c.result_id, deliveries.c.destination))
    }
    return [
        (row.job_id, row.id, name)
        for row in made
        for name in row.destinations
        if (row.id, name) not in there
    ]


def _put_into_outbox(survey: Survey, job_id: int) -> str:
    """A delivery more is harmless: the same bytes under the same UID."""
    with survey.database.begin() as connection:
        connection.execute(select(jobs.c.id).where(jobs.c.id == job_id).with_for_update())
        missing = _missing(connection, and_(jobs.c.id == job_id, _is_waiting()))
        for _, result_id, name in missing:
            add_deliveries(connection, job_id, result_id, [name], now=survey.now)
    return "put into the outbox" if missing else "left alone: it is in the outbox"
