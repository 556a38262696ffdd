"""What becomes of a delivery, guarded by its lease, and of the job when its last one is settled."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update

from dicom_node.domain.jobs import JobEvent, JobState, next_state
from dicom_node.store.deliveries import DELIVERED, OPEN, PARKED, PENDING, SENT, Delivery
from dicom_node.store.events import add_event
from dicom_node.store.tables import deliveries, jobs


def _settle(connection: Connection, delivery: Delivery, **values: Any) -> bool:
    done = connection.execute(
        update(deliveries)
        .where(
            deliveries.c.id == delivery.id,
            deliveries.c.state == delivery.state,
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
        settle_job(connection, delivery.job_id, now=now)


def settle_sent(
    connection: Connection,
    delivery: Delivery,
    *,
    remark: str | None,
    now: datetime,
    run_after: datetime,
) -> None:
    """The destination took the object; ask it at `run_after` whether it has it."""
    if _settle(
        connection,
        delivery,
        state=SENT,
        sent_at=now,
        run_after=run_after,
        asked=0,
        transaction_uid=None,
        last_error=remark,
    ):
        add_event(
            connection,
            at=now,
            action="result_sent",
            job_id=delivery.job_id,
            detail=f"{delivery.destination}{': ' + remark if remark else ''}",
        )


def settle_denied(
    connection: Connection, delivery: Delivery, *, error: str, now: datetime, run_after: datetime
) -> None:
    """The destination does not have what it took; send it again at `run_after`."""
    if _settle(
        connection,
        delivery,
        state=PENDING,
        denials=delivery.denials + 1,
        transaction_uid=None,
        run_after=run_after,
        last_error=error,
    ):
        add_event(
            connection,
            at=now,
            action="delivery_denied",
            job_id=delivery.job_id,
            detail=f"{delivery.destination}: {error}",
        )


def settle_postponed(
    connection: Connection, delivery: Delivery, *, error: str | None, run_after: datetime
) -> None:
    """Neither delivered nor given up; send it or ask for it again at `run_after`."""
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
        settle_job(connection, delivery.job_id, now=now)


def settle_job(connection: Connection, job_id: int, *, now: datetime) -> None:
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
    if states.intersection(OPEN):
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
