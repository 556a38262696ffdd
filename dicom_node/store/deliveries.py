"""The outbox: one row per result object and destination, until the destination has it.

What becomes of a row is in `dicom_node.store.settlements`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, and_, case, func, insert, or_, select, update

from dicom_node.store.moments import has_run_out, is_due
from dicom_node.store.tables import deliveries, jobs, results

PENDING, SENT, DELIVERED, PARKED = "pending", "sent", "delivered", "parked"
OPEN = (PENDING, SENT)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One object on its way to one destination.

    Attributes
    ----------
    state
        `pending`: to be sent; `sent`: the destination took it and has not confirmed it yet.
    path, sha256
        Where its bytes lie in the store, and their digest (lower-case hex).
    attempts
        C-STOREs since the job was scored; those before a person's retry count as one.
    asked
        Questions whether the destination has it, since the last C-STORE.
    denials
        How often it denied to have what it had taken.
    transaction_uid
        Of the storage commitment request that is open.
    token
        Of the lease; None: read without one.
    """

    id: int
    job_id: int
    destination: str
    state: str
    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    path: str
    sha256: str
    attempts: int
    asked: int
    denials: int
    transaction_uid: str | None
    first_attempt_at: datetime
    token: str | None


def courier_token(worker: str) -> str:
    """A new token for a claim of this courier, which `expire_courier` tells from others'."""
    return _prefix(worker) + uuid4().hex[:20]


def _prefix(worker: str) -> str:
    return sha256(worker.encode()).hexdigest()[:12] + "-"


def expire_courier(connection: Connection, *, worker: str, now: datetime) -> None:
    """End the leases of a courier that is known to be dead, so that nobody waits for them."""
    connection.execute(
        update(deliveries)
        .where(deliveries.c.state.in_(OPEN), deliveries.c.lease_token.startswith(_prefix(worker)))
        .values(lease_until=now)
    )


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
    state: str = PENDING,
) -> list[Delivery]:
    """Take what is due for one destination, oldest first; a stale lease counts as none.

    Parameters
    ----------
    state
        `pending`: what is to be sent; `sent`: what is to be confirmed.
    """
    counter = deliveries.c.attempts if state == PENDING else deliveries.c.asked
    due = connection.execute(
        select(deliveries.c.id)
        .where(
            deliveries.c.state == state,
            deliveries.c.destination == destination,
            is_due(deliveries.c.run_after, deliveries.c.attempts, now),
            or_(deliveries.c.lease_until.is_(None), has_run_out(deliveries.c.lease_until, now)),
        )
        .order_by(deliveries.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).scalars()
    taken = connection.execute(
        update(deliveries)
        .where(
            deliveries.c.id.in_(list(due)),
            deliveries.c.state == state,
            or_(deliveries.c.lease_until.is_(None), has_run_out(deliveries.c.lease_until, now)),
        )
        .values(
            {
                counter: counter + 1,
                deliveries.c.first_attempt_at: func.coalesce(deliveries.c.first_attempt_at, now),
                deliveries.c.lease_token: token,
                deliveries.c.lease_until: now + lease,
            }
        )
        .returning(deliveries.c.id)
    ).scalars()
    return _read(connection, deliveries.c.id.in_(list(taken)))


def sent_to(
    connection: Connection, destination: str, sop_instance_uids: Sequence[str]
) -> list[Delivery]:
    """What was sent to a destination, of these objects, and is not confirmed yet.

    What is pending after a C-STORE is among it: a destination may find an object that it denied.
    The rows stay locked until the transaction ends, whoever has them under a lease.
    """
    condition = and_(
        deliveries.c.destination == destination,
        deliveries.c.state.in_(OPEN),
        deliveries.c.attempts > 0,
        results.c.sop_instance_uid.in_(sop_instance_uids),
    )
    return _read(connection, condition)


def _read(connection: Connection, condition: ColumnElement[bool]) -> list[Delivery]:
    query = (
        select(
            deliveries,
            jobs.c.study_instance_uid,
            results.c.series_instance_uid,
            results.c.sop_class_uid,
            results.c.sop_instance_uid,
            results.c.path,
            results.c.sha256,
        )
        .join(results, results.c.id == deliveries.c.result_id)
        .join(jobs, jobs.c.id == deliveries.c.job_id)
        .where(condition)
        .order_by(deliveries.c.id)
        .with_for_update(of=deliveries)
    )
    return [
        Delivery(
            id=row.id,
            job_id=row.job_id,
            destination=row.destination,
            state=row.state,
            study_instance_uid=row.study_instance_uid,
            series_instance_uid=row.series_instance_uid,
            sop_class_uid=row.sop_class_uid,
            sop_instance_uid=row.sop_instance_uid,
            path=row.path,
            sha256=row.sha256,
            attempts=row.attempts,
            asked=row.asked,
            denials=row.denials,
            transaction_uid=row.transaction_uid,
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


def resume_deliveries(connection: Connection, job_id: int, *, now: datetime) -> None:
    """Put a job's parked deliveries back into the outbox with a fresh age.

    One attempt stays counted where there was any: the object may be at the destination.
    """
    connection.execute(
        update(deliveries)
        .where(deliveries.c.job_id == job_id, deliveries.c.state == PARKED)
        .values(
            state=PENDING,
            attempts=case((deliveries.c.attempts > 0, 1), else_=0),
            denials=0,
            transaction_uid=None,
            first_attempt_at=None,
            run_after=now,
        )
    )


def undelivered_since(connection: Connection) -> dict[str, datetime]:
    """For each destination, when the oldest object that it does not have yet was first sent to it,
    or was to be sent: a courier that is dead tries nothing.

    What is parked waits for a person and does not count here.
    """
    since = func.coalesce(deliveries.c.first_attempt_at, deliveries.c.run_after)
    query = (
        select(deliveries.c.destination, func.min(since))
        .where(deliveries.c.state.in_(OPEN))
        .group_by(deliveries.c.destination)
    )
    return dict(connection.execute(query).tuples().all())


def due_destinations(connection: Connection, *, now: datetime) -> list[str]:
    """Destinations for which something is due."""
    query = (
        select(deliveries.c.destination)
        .where(
            deliveries.c.state.in_(OPEN),
            is_due(deliveries.c.run_after, deliveries.c.attempts, now),
        )
        .distinct()
    )
    return list(connection.execute(query).scalars())
