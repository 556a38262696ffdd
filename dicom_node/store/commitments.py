"""Storage commitment in SQL: what we asked destinations for, and what senders asked us for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, func, insert, or_, select, update

from dicom_node.domain.clock import LONGEST_WAIT
from dicom_node.domain.commitment import (
    CLASS_INSTANCE_CONFLICT,
    NO_SUCH_OBJECT_INSTANCE,
    CommitmentReport,
    CommitmentRequest,
    Reference,
)
from dicom_node.store.commitment_box import ReceivedRequest
from dicom_node.store.deliveries import Delivery
from dicom_node.store.tables import commitment_requests, commitments, deliveries, instances

PENDING, ANSWERED, PARKED = "pending", "answered", "parked"
_UIDS_PER_QUERY = 500  # SQLite takes 32766 parameters, PostgreSQL 65535; short lists plan well


def open_transaction(
    connection: Connection,
    transaction_uid: str,
    asked_for: Sequence[Delivery],
    *,
    destination: str,
    now: datetime,
) -> None:
    """Write down that a destination is about to be asked, before it is."""
    connection.execute(
        insert(commitments).values(
            transaction_uid=transaction_uid, destination=destination, requested_at=now
        )
    )
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id.in_([item.id for item in asked_for]))
        .values(transaction_uid=transaction_uid)
    )


def close_transaction(connection: Connection, transaction_uid: str, *, now: datetime) -> str | None:
    """Write down that a transaction was answered; its destination, None: it is none of ours."""
    return connection.execute(
        update(commitments)
        .where(commitments.c.transaction_uid == transaction_uid)
        .values(answered_at=func.coalesce(commitments.c.answered_at, now))
        .returning(commitments.c.destination)
    ).scalar_one_or_none()


@dataclass(frozen=True, slots=True)
class OwedAnswer:
    """An answer that a sender has not heard yet."""

    id: int
    name: str
    calling_ae_title: str
    transaction_uid: str
    attempts: int
    received_at: datetime


def judge_request(
    connection: Connection,
    request: CommitmentRequest,
    *,
    store_dir: Path,
    in_inbox: Iterable[Reference],
) -> CommitmentReport:
    """Say which of the objects are here, durable: in the inbox or in the store.

    Parameters
    ----------
    in_inbox
        What lay in the inbox *before* this transaction began: what is in neither was never here,
        or was here and is gone.
    """
    wanted = sorted({reference.sop_instance_uid for reference in request.references})
    classes: dict[str, set[str]] = {}
    for reference in in_inbox:
        classes.setdefault(reference.sop_instance_uid, set()).add(reference.sop_class_uid)
    for start in range(0, len(wanted), _UIDS_PER_QUERY):
        query = select(
            instances.c.sop_instance_uid, instances.c.sop_class_uid, instances.c.path
        ).where(instances.c.sop_instance_uid.in_(wanted[start : start + _UIDS_PER_QUERY]))
        for row in connection.execute(query):
            if (store_dir / row.path).is_file():
                classes.setdefault(row.sop_instance_uid, set()).add(row.sop_class_uid)
    committed, failed = [], []
    for reference in request.references:
        found = classes.get(reference.sop_instance_uid)
        if found is None:
            failed.append((reference, NO_SUCH_OBJECT_INSTANCE))
        elif reference.sop_class_uid not in found:
            failed.append((reference, CLASS_INSTANCE_CONFLICT))
        else:
            committed.append(reference)
    return CommitmentReport(request.transaction_uid, tuple(committed), tuple(failed))


def add_request(
    connection: Connection,
    received: ReceivedRequest,
    answer: CommitmentReport,
    *,
    run_after: datetime,
) -> bool:
    """Write down a sender's request with its answer; False: it is there and needs none any more.

    Parameters
    ----------
    run_after
        Until then the receiver may answer on the association of the request.
    """
    known = connection.execute(
        select(commitment_requests.c.state).where(commitment_requests.c.name == received.name)
    ).scalar_one_or_none()
    if known is None:
        connection.execute(
            insert(commitment_requests).values(
                name=received.name,
                calling_ae_title=received.calling_ae_title,
                transaction_uid=answer.transaction_uid,
                committed=len(answer.committed),
                failed=len(answer.failed),
                state=PENDING,
                run_after=run_after,
                received_at=received.received_at,
            )
        )
    return known in (None, PENDING)


def owed_answers(connection: Connection, *, now: datetime) -> list[OwedAnswer]:
    """Answers that are due, oldest first."""
    query = (
        select(commitment_requests)
        .where(
            commitment_requests.c.state == PENDING,
            or_(
                commitment_requests.c.run_after <= now,
                commitment_requests.c.run_after > now + LONGEST_WAIT,
            ),
        )
        .order_by(commitment_requests.c.id)
    )
    return [
        OwedAnswer(
            id=row.id,
            name=row.name,
            calling_ae_title=row.calling_ae_title,
            transaction_uid=row.transaction_uid,
            attempts=row.attempts,
            received_at=row.received_at,
        )
        for row in connection.execute(query)
    ]


def requests_by_state(connection: Connection) -> dict[str, int]:
    """How many requests of senders are in each state."""
    query = select(commitment_requests.c.state, func.count()).group_by(commitment_requests.c.state)
    return dict(connection.execute(query).tuples().all())


def claim_answer(
    connection: Connection, owed: OwedAnswer, *, now: datetime, lease: timedelta
) -> bool:
    """Take an answer for one attempt; False: another courier has it."""
    done = connection.execute(
        update(commitment_requests)
        .where(
            commitment_requests.c.id == owed.id,
            commitment_requests.c.state == PENDING,
            commitment_requests.c.attempts == owed.attempts,
        )
        .values(attempts=owed.attempts + 1, run_after=now + lease)
    )
    return done.rowcount == 1


def settle_answer(
    connection: Connection,
    owed: OwedAnswer,
    *,
    now: datetime,
    error: str | None = None,
    run_after: datetime | None = None,
) -> None:
    """Heard (no error), to be tried again at `run_after`, or given up (an error alone)."""
    values: dict[str, object]
    if error is None:
        values = {"state": ANSWERED, "answered_at": now, "last_error": None}
    elif run_after is not None:
        values = {"run_after": run_after, "last_error": error}
    else:
        values = {"state": PARKED, "last_error": error}
    connection.execute(
        update(commitment_requests)
        .where(commitment_requests.c.id == owed.id, commitment_requests.c.state == PENDING)
        .values(**values)
    )
