"""Which bytes may go, marked in SQL before any file is touched; and a person's waiver.

The mark comes first (`pruned_at`), the files after it, their size last (`pruned_bytes`): whatever
is killed in between is finished by the next sweep, and no row ever promises bytes that are gone.
An instance that is sent again after its mark is a duplicate like any other; it gets its bytes back
and, since its row and its jobs never went, makes no second result.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, exists, false, func, or_, select, update

from dicom_node.domain.jobs import WAIVABLE, InvalidTransition, JobState
from dicom_node.domain.retention import RetentionPolicy
from dicom_node.store.deliveries import DELIVERED, PARKED
from dicom_node.store.events import add_event
from dicom_node.store.studies import lock_study
from dicom_node.store.tables import deliveries, instances, jobs, quarantine, studies

_unconfirmed = exists().where(deliveries.c.job_id == jobs.c.id, deliveries.c.state != DELIVERED)
_confirmed_once = exists().where(deliveries.c.job_id == jobs.c.id, deliveries.c.state == DELIVERED)
_refused_at = func.coalesce(jobs.c.delivered_at, jobs.c.scored_at, jobs.c.created_at)


def _older(
    moment: ColumnElement[datetime], age: timedelta | None, now: datetime
) -> ColumnElement[bool]:
    return false() if age is None else moment <= now - age


def _job_may_go(policy: RetentionPolicy, now: datetime) -> ColumnElement[bool]:
    delivered = and_(jobs.c.state == JobState.DELIVERED.value, ~_unconfirmed)
    refused = and_(jobs.c.state == JobState.REFUSED.value, ~_unconfirmed)
    return or_(
        and_(delivered, _older(jobs.c.delivered_at, policy.delivered, now)),
        and_(refused, _older(_refused_at, policy.refused, now)),
        and_(jobs.c.waived_at.is_not(None), _older(jobs.c.waived_at, policy.waived, now)),
    )


def _job_is_proven() -> ColumnElement[bool]:
    """Confirmed by every delivery, of which there is one, or waived."""
    ended = jobs.c.state.in_([JobState.DELIVERED.value, JobState.REFUSED.value])
    confirmed = and_(ended, _confirmed_once, ~_unconfirmed)
    return or_(confirmed, jobs.c.waived_at.is_not(None))


def _study_may_go(job_may_go: ColumnElement[bool]) -> ColumnElement[bool]:
    """Routed, no job against it, and something left to give up."""
    # An unknown (NULL) verdict on a job counts as a no.
    against = exists().where(jobs.c.study_id == studies.c.id, ~func.coalesce(job_may_go, false()))
    images = exists().where(instances.c.study_id == studies.c.id, instances.c.pruned_at.is_(None))
    outcomes = exists().where(jobs.c.study_id == studies.c.id, jobs.c.pruned_at.is_(None))
    return and_(studies.c.state == "routed", ~against, or_(images, outcomes))


def _due(policy: RetentionPolicy, now: datetime) -> ColumnElement[bool]:
    ages = [age for age in (policy.delivered, policy.refused, policy.waived) if age is not None]
    if not ages:
        return false()
    # What was sent again after pruning is kept for a while, too: somebody wants it.
    fresh = exists().where(
        instances.c.study_id == studies.c.id,
        instances.c.pruned_at.is_(None),
        instances.c.received_at > now - min(ages),
    )
    has_job = exists().where(jobs.c.study_id == studies.c.id)
    documents_only = and_(~has_job, _older(studies.c.last_received_at, policy.refused, now))
    return and_(_study_may_go(_job_may_go(policy, now)), ~fresh, or_(has_job, documents_only))


def _proven() -> ColumnElement[bool]:
    has_job = exists().where(jobs.c.study_id == studies.c.id)
    return and_(_study_may_go(_job_is_proven()), has_job)


def due_studies(
    connection: Connection, policy: RetentionPolicy, *, now: datetime, limit: int
) -> list[int]:
    """Studies whose files have reached their age, oldest first."""
    return _oldest(connection, _due(policy, now), limit)


def proven_studies(connection: Connection, *, limit: int) -> list[int]:
    """Studies whose files may go at any age because the disk is nearly full, oldest first."""
    return _oldest(connection, _proven(), limit)


def _oldest(connection: Connection, condition: ColumnElement[bool], limit: int) -> list[int]:
    query = select(studies.c.id).where(condition)
    oldest = query.order_by(studies.c.last_received_at, studies.c.id).limit(limit)
    return list(connection.execute(oldest).scalars())


def mark_study(
    connection: Connection, study_id: int, policy: RetentionPolicy | None, *, now: datetime
) -> bool:
    """Give up a study's files, if they still may go; removes none.

    Parameters
    ----------
    policy
        None: whatever the age, since the disk is nearly full.
    """
    uid = connection.execute(
        select(studies.c.study_instance_uid).where(studies.c.id == study_id)
    ).scalar_one()
    lock_study(connection, uid)
    connection.execute(select(jobs.c.id).where(jobs.c.study_id == study_id).with_for_update())
    condition = _proven() if policy is None else _due(policy, now)
    if not connection.execute(
        select(studies.c.id).where(studies.c.id == study_id, condition).with_for_update()
    ).first():
        return False
    for table in (instances, jobs):
        connection.execute(
            update(table)
            .where(table.c.study_id == study_id, table.c.pruned_at.is_(None))
            .values(pruned_at=now, pruned_bytes=None)
        )
    why = "the disk was nearly full" if policy is None else "its age was reached"
    add_event(connection, at=now, action="study_pruned", study_id=study_id, detail=why)
    return True


def mark_quarantine(connection: Connection, policy: RetentionPolicy, *, now: datetime) -> int:
    """Give up the quarantined files that have reached their age; returns their number."""
    done = connection.execute(
        update(quarantine)
        .where(
            quarantine.c.pruned_at.is_(None),
            _older(quarantine.c.received_at, policy.quarantined, now),
        )
        .values(pruned_at=now)
    )
    return done.rowcount


def due_quarantine(connection: Connection, policy: RetentionPolicy, *, now: datetime) -> int:
    """How many quarantined files have reached their age."""
    condition = _older(quarantine.c.received_at, policy.quarantined, now)
    query = select(func.count()).where(quarantine.c.pruned_at.is_(None), condition)
    return int(connection.execute(query).scalar_one())


def waive_job(connection: Connection, job_id: int, *, why: str, now: datetime) -> bool:
    """Release a job's study from waiting for a confirmation, at a person's request.

    Returns
    -------
    bool
        False if there is no such job.

    Raises
    ------
    InvalidTransition
        The job has not ended, or one of its results is still on its way.
    """
    row = connection.execute(
        select(jobs.c.state, jobs.c.study_id).where(jobs.c.id == job_id).with_for_update()
    ).one_or_none()
    if row is None:
        return False
    if JobState(row.state) not in WAIVABLE:
        raise InvalidTransition(f"a job in state {row.state} cannot be waived")
    under_way = connection.execute(
        select(deliveries.c.id)
        .where(deliveries.c.job_id == job_id, deliveries.c.state.not_in([DELIVERED, PARKED]))
        .limit(1)
    ).first()
    if under_way is not None:
        raise InvalidTransition("a result is still on its way; it is parked when that fails")
    connection.execute(
        update(jobs).where(jobs.c.id == job_id).values(waived_at=now, waived_because=why)
    )
    add_event(
        connection,
        at=now,
        action="job_waived",
        study_id=row.study_id,
        job_id=job_id,
        detail=why,
    )
    return True
