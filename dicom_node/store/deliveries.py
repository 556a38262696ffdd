"""The outbox: one row per result object and destination, until the destination has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, insert, or_, select, update

from dicom_node.domain.jobs import JobEvent, JobState, next_state
from dicom_node.store.events import add_event
from dicom_node.store.tables import deliveries, jobs, results

PENDING, DELIVERED, PARKED = "pending", "delivered", "parked"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One object on its way to one destination, held under a lease."""

    id: int
    job_id: int
    destination: str
    sop_instance_uid: str
    path: str
    attempts: int
    first_attempt_at: datetime
    token: str


def add_deliveries(
    connection: Connection,
    job_id: int,
    result_id: int,
    destinations: Sequence[str],
    *,
    now: datetime,
) -> None:
    """Put an object into the outbox for each destination."""
    rows = [
        {
            "job_id": job_id,
            "result_id": result_id,
            "destination": destination,
            "state": PENDING,
            "run_after": now,
        }
        for destination in destinations
    ]
    if rows:
        connection.execute(insert(deliveries), rows)


def claim_deliveries(
    connection: Connection,
    *,
    destination: str,
    token: str,
    lease: timedelta,
    limit: int,
    now: datetime,
) -> list[Delivery]:
    """Take what is due for one destination, oldest first; a stale lease counts as none."""
    due = connection.execute(
        select(deliveries.c.id)
        .where(
            deliveries.c.state == PENDING,
            deliveries.c.destination == destination,
            deliveries.c.run_after <= now,
            or_(deliveries.c.lease_until.is_(None), deliveries.c.lease_until < now),
        )
        .order_by(deliveries.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).scalars()
    taken = connection.execute(
        update(deliveries)
        .where(
            deliveries.c.id.in_(list(due)),
            deliveries.c.state == PENDING,
            or_(deliveries.c.lease_until.is_(None), deliveries.c.lease_until < now),
        )
        .values(
            attempts=deliveries.c.attempts + 1,
            first_attempt_at=func.coalesce(deliveries.c.first_attempt_at, now),
            lease_token=token,
            lease_until=now + lease,
        )
        .returning(deliveries.c.id)
    ).scalars()
    query = (
        select(deliveries, results.c.sop_instance_uid, results.c.path)
        .join(results, results.c.id == deliveries.c.result_id)
        .where(deliveries.c.id.in_(list(taken)))
        .order_by(deliveries.c.id)
    )
    return [
        Delivery(
            id=row.id,
            job_id=row.job_id,
            destination=row.destination,
            sop_instance_uid=row.sop_instance_uid,
            path=row.path,
            attempts=row.attempts,
            first_attempt_at=row.first_attempt_at,
            token=row.lease_token,
        )
        for row in connection.execute(query)
    ]


def extend_deliveries(
    connection: Connection, token: str, *, lease: timedelta, now: datetime
) -> None:
    """Heartbeat: push the end of the leases that were taken with `token`."""
    connection.execute(
        update(deliveries).where(deliveries.c.lease_token == token).values(lease_until=now + lease)
    )


def _settle(connection: Connection, delivery: Delivery, **values: Any) -> bool:
    done = connection.execute(
        update(deliveries)
        .where(
            deliveries.c.id == delivery.id,
            deliveries.c.state == PENDING,
            deliveries.c.lease_token == delivery.token,
        )
        .values(lease_token=None, lease_until=None, **values)
    )
    return done.rowcount == 1


def settle_delivered(
    connection: Connection, delivery: Delivery, *, remark: str | None, now: datetime
) -> None:
    """The destination has the object; the job is delivered once all its objects are."""
    if _settle(connection, delivery, state=DELIVERED, delivered_at=now, last_error=remark):
        add_event(
            connection,
            at=now,
            action="result_delivered",
            job_id=delivery.job_id,
            detail=f"{delivery.destination}{': ' + remark if remark else ''}",
        )
        _settle_job(connection, delivery.job_id, now=now)


def settle_postponed(
    connection: Connection, delivery: Delivery, *, error: str, run_after: datetime
) -> None:
    """Not delivered; try again at `run_after`."""
    _settle(connection, delivery, run_after=run_after, last_error=error)


def settle_parked(connection: Connection, delivery: Delivery, *, error: str, now: datetime) -> None:
    """Not delivered, and only a person can help: the job is parked with the reason."""
    if _settle(connection, delivery, state=PARKED, last_error=error):
        add_event(
            connection,
            at=now,
            action="delivery_parked",
            job_id=delivery.job_id,
            detail=f"{delivery.destination}: {error}",
        )
        _settle_job(connection, delivery.job_id, now=now)


def _settle_job(connection: Connection, job_id: int, *, now: datetime) -> None:
    """Move the job on if its last delivery has been settled."""
    job = connection.execute(
        select(jobs.c.id, jobs.c.state).where(jobs.c.id == job_id).with_for_update()
    ).one()
    rows = connection.execute(
        select(deliveries.c.state, deliveries.c.destination, deliveries.c.last_error).where(
            deliveries.c.job_id == job_id
        )
    ).all()
    states = {row.state for row in rows}
    if PENDING in states:
        return
    state = JobState(job.state)
    values: dict[str, Any]
    if PARKED in states:
        first = next(row for row in rows if row.state == PARKED)
        values = {"state": next_state(state, JobEvent.GIVE_UP).value}
        if state is not JobState.REFUSED:
            values["reason"] = f"delivery to {first.destination}: {first.last_error}"
    else:
        values = {"state": next_state(state, JobEvent.CONFIRM).value, "delivered_at": now}
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))


def resume_deliveries(connection: Connection, job_id: int, *, now: datetime) -> None:
    """Put a job's parked deliveries back into the outbox with a fresh age."""
    connection.execute(
        update(deliveries)
        .where(deliveries.c.job_id == job_id, deliveries.c.state == PARKED)
        .values(state=PENDING, attempts=0, first_attempt_at=None, run_after=now)
    )


def due_destinations(connection: Connection, *, now: datetime) -> list[str]:
    """Destinations for which something is due."""
    query = (
        select(deliveries.c.destination)
        .where(deliveries.c.state == PENDING, deliveries.c.run_after <= now)
        .distinct()
    )
    return list(connection.execute(query).scalars())
