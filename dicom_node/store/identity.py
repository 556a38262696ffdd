"""Whether a study's images are one patient's, and what happens to its jobs when they are not."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import Connection, and_, exists, or_, select, update

from dicom_node.domain.jobs import JobEvent, JobState, next_state
from dicom_node.domain.study import Role
from dicom_node.store.deliveries import PARKED, PENDING
from dicom_node.store.events import add_event
from dicom_node.store.jobs import close_attempt
from dicom_node.store.tables import deliveries, instances, jobs

_REMEDY = (
    "correct them at the source and send again, or `jobs retry` once you know that the scored "
    "images belong together"
)


def identity_conflict(connection: Connection, study_id: int) -> str | None:
    """Why a study's images cannot be one patient's, or None.

    Images count, those that came again with other bytes included; results of others may come from
    systems that know the patient otherwise.
    """
    rows = connection.execute(
        select(instances.c.identity_digest, instances.c.name_digests)
        .where(instances.c.study_id == study_id, instances.c.role == Role.IMAGE.value)
        .distinct()
    ).all()
    identities = {row.identity_digest for row in rows}
    if len(identities) > 1:
        return (
            f"the study's images carry {len(identities)} different identities (Patient ID, Issuer "
            f"of Patient ID, birth date); {_REMEDY}"
        )
    if _names_differ(row.name_digests for row in rows):
        return f"the study's images carry one Patient ID and different names; {_REMEDY}"
    return None


def dispute_over_job(connection: Connection, job_id: int) -> str | None:
    """Why the study of a job cannot be one patient's, or None."""
    study_id = connection.execute(
        select(jobs.c.study_id).where(jobs.c.id == job_id)
    ).scalar_one_or_none()
    return None if study_id is None else identity_conflict(connection, study_id)


def _names_differ(names: Iterable[str | None]) -> bool:
    """Whether one group of the name differs where it is given; rows of old releases have none."""
    groups = zip(*(name.split() for name in names if name), strict=True)
    return any(len({name for name in group if name != "-"}) > 1 for group in groups)


def park_if_disputed(connection: Connection, study_id: int, *, now: datetime) -> None:
    """Stop what is under way for a study to which another patient's image came.

    Jobs that wait, run or have a result to be sent are parked. What a destination has already is
    beyond reach; the event says that it must be looked at there.
    """
    unsent = exists().where(deliveries.c.job_id == jobs.c.id, deliveries.c.state == PENDING)
    waiting = jobs.c.state.in_([JobState.QUEUED.value, JobState.RUNNING.value])
    sending = jobs.c.state.in_([JobState.SCORED.value, JobState.REFUSED.value])
    done = jobs.c.state.in_([JobState.SCORED.value, JobState.DELIVERED.value])
    found = connection.execute(
        select(jobs.c.id, jobs.c.state, or_(waiting, and_(sending, unsent)).label("stops"))
        .where(jobs.c.study_id == study_id, or_(waiting, and_(sending, unsent), done))
        .with_for_update()
    ).all()
    reason = identity_conflict(connection, study_id) if found else None
    if reason is None:
        return
    for row in found:
        if row.stops:
            _park(connection, row.id, JobState(row.state), reason, now=now)
        add_event(
            connection,
            at=now,
            action="identity_disputed",
            study_id=study_id,
            job_id=row.id,
            detail=reason if row.stops else f"its results are delivered, look at them: {reason}",
        )


def _park(
    connection: Connection, job_id: int, state: JobState, reason: str, *, now: datetime
) -> None:
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(
            state=next_state(state, JobEvent.DISPUTE).value,
            reason=reason,
            lease_token=None,
            lease_until=None,
        )
    )
    close_attempt(connection, job_id, outcome=JobEvent.DISPUTE, error=reason, now=now)
    connection.execute(
        update(deliveries)
        .where(deliveries.c.job_id == job_id, deliveries.c.state == PENDING)
        .values(state=PARKED, last_error=reason, lease_token=None, lease_until=None)
    )
