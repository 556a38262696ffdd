"""Instances, studies and their completion in SQL."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from dicom_node.domain.study import InstanceRecord, Role
from dicom_node.errors import short_uid
from dicom_node.store.database import insert_ignore
from dicom_node.store.events import add_event
from dicom_node.store.identity import park_if_disputed
from dicom_node.store.tables import associations, instances, quarantine, studies


@dataclass(frozen=True, slots=True)
class OpenStudy:
    """A study that still receives, with what decides its completion."""

    id: int
    revision: int
    first_received_at: datetime
    last_received_at: datetime
    association_ends: tuple[datetime | None, ...]

    @property
    def latest(self) -> datetime:
        """The newest of its times; in the future only if the clock was set back."""
        ends = [end for end in self.association_ends if end is not None]
        return max([self.last_received_at, *ends])


def record_instance(connection: Connection, record: InstanceRecord) -> str:
    """Record one received instance in its study.

    Returns
    -------
    str
        "stored", "duplicate" (same bytes: nothing changes), "conflict" (same UID, other bytes:
        kept, flagged, never scored), "result" (somebody's result: kept, opens no revision) or
        "restored" (a duplicate whose bytes retention gave up: the caller puts them back).
    """
    lock_study(connection, record.study_instance_uid)
    twins = connection.execute(
        select(instances.c.id, instances.c.digest, instances.c.pruned_at)
        .where(instances.c.sop_instance_uid == record.sop_instance_uid)
        .order_by(instances.c.id)
    ).all()
    same = next((twin for twin in twins if twin.digest == record.digest), None)
    if same is not None:
        _note_association(connection, record)
        return "duplicate" if same.pruned_at is None else _restore(connection, same.id, record)
    counts = record.role is Role.IMAGE and not twins
    study_id, revision = _study_for(connection, record, counts=counts)
    connection.execute(
        insert(instances).values(
            study_id=study_id,
            revision=revision,
            series_instance_uid=record.series_instance_uid,
            sop_instance_uid=record.sop_instance_uid,
            sop_class_uid=record.sop_class_uid,
            transfer_syntax_uid=record.transfer_syntax_uid,
            digest=record.digest,
            identity_digest=record.identity_digest,
            has_patient_id=record.has_patient_id,
            role=record.role.value,
            header=dict(record.header),
            path=record.path,
            size=record.size,
            association=record.association,
            received_at=record.received_at,
            conflicts_with=twins[0].id if twins else None,
            name_digests=record.name_digests,
        )
    )
    _note_association(connection, record)
    if record.role is Role.IMAGE:
        park_if_disputed(connection, study_id, now=record.received_at)
    if twins:
        add_event(
            connection,
            at=record.received_at,
            action="instance_conflict",
            study_id=study_id,
            detail=f"SOP Instance {short_uid(record.sop_instance_uid)} came again with other "
            "bytes; kept, not scored",
        )
        return "conflict"
    return "stored" if record.role is Role.IMAGE else "result"


def _restore(connection: Connection, instance_id: int, record: InstanceRecord) -> str:
    connection.execute(
        update(instances)
        .where(instances.c.id == instance_id)
        .values(pruned_at=None, pruned_bytes=None, received_at=record.received_at)
    )
    return "restored"


def lock_study(connection: Connection, study_instance_uid: str) -> None:
    """Keep every other transaction that locks this study out until this one ends."""
    # SQLite's writers are already one at a time; PostgreSQL's take turns per study.
    if connection.dialect.name == "postgresql":
        key = func.hashtextextended(study_instance_uid, 0)
        connection.execute(select(func.pg_advisory_xact_lock(key)))


def _study_for(connection: Connection, record: InstanceRecord, *, counts: bool) -> tuple[int, int]:
    """Find or make the study; an image that counts re-opens a complete one as a new revision."""
    row = connection.execute(
        select(studies)
        .where(studies.c.study_instance_uid == record.study_instance_uid)
        .with_for_update()
    ).one_or_none()
    if row is None:
        study_id = connection.execute(
            insert(studies)
            .values(
                study_instance_uid=record.study_instance_uid,
                revision=1,
                state="receiving" if counts else "routed",
                first_received_at=record.received_at,
                last_received_at=record.received_at,
                calling_ae_title=record.calling_ae_title,
            )
            .returning(studies.c.id)
        ).scalar_one()
        return study_id, 1
    if not counts:
        return row.id, row.revision
    reopened = row.state != "receiving"
    had_images = reopened and _has_images(connection, row.id)
    revision = row.revision + 1 if had_images else row.revision
    values: dict[str, Any] = {
        "state": "receiving",
        "revision": revision,
        "last_received_at": max(record.received_at, row.last_received_at),
        "calling_ae_title": record.calling_ae_title,
    }
    if reopened:
        values |= {"first_received_at": record.received_at, "completed_at": None}
        add_event(
            connection,
            at=record.received_at,
            action="study_reopened",
            study_id=row.id,
            detail=f"a late image opened revision {revision}",
        )
    connection.execute(update(studies).where(studies.c.id == row.id).values(values))
    return row.id, revision


def _has_images(connection: Connection, study_id: int) -> bool:
    query = select(instances.c.id).where(
        instances.c.study_id == study_id, instances.c.role == Role.IMAGE.value
    )
    return connection.execute(query.limit(1)).first() is not None


def _note_association(connection: Connection, record: InstanceRecord) -> None:
    study_id = connection.execute(
        select(studies.c.id).where(studies.c.study_instance_uid == record.study_instance_uid)
    ).scalar_one()
    connection.execute(
        insert_ignore(connection, associations).values(
            study_id=study_id, association=record.association
        )
    )


def end_association(connection: Connection, association: str, *, at: datetime) -> None:
    """Record that an association has ended (released or aborted)."""
    connection.execute(
        update(associations)
        .where(associations.c.association == association, associations.c.ended_at.is_(None))
        .values(ended_at=at)
    )


def quarantine_file(
    connection: Connection,
    *,
    path: str,
    reason: str,
    association: str,
    calling_ae_title: str,
    received_at: datetime,
) -> None:
    """Record a file that belongs to no study because its header cannot be read."""
    connection.execute(
        insert_ignore(connection, quarantine).values(
            path=path,
            reason=reason,
            association=association,
            calling_ae_title=calling_ae_title,
            received_at=received_at,
        )
    )


def open_studies(connection: Connection) -> list[OpenStudy]:
    """Every study in state receiving."""
    rows = connection.execute(select(studies).where(studies.c.state == "receiving")).all()
    ends: dict[int, list[datetime | None]] = {row.id: [] for row in rows}
    query = (
        select(associations.c.study_id, associations.c.ended_at)
        .join(studies, studies.c.id == associations.c.study_id)
        .where(studies.c.state == "receiving")
    )
    for study_id, ended_at in connection.execute(query):
        ends.setdefault(study_id, []).append(ended_at)
    return [
        OpenStudy(
            row.id, row.revision, row.first_received_at, row.last_received_at, tuple(ends[row.id])
        )
        for row in rows
    ]


def shift_open_studies(connection: Connection, *, by: timedelta, now: datetime) -> None:
    """Restate the times of studies that still receive after the clock was set.

    Parameters
    ----------
    by
        How far the clock was set; zero where that was not seen. No time ends up after `now`.
    """

    def shifted(moment: datetime) -> datetime:
        return min(moment + by, now)

    for row in connection.execute(select(studies).where(studies.c.state == "receiving")).all():
        connection.execute(
            update(studies)
            .where(studies.c.id == row.id)
            .values(
                first_received_at=shifted(row.first_received_at),
                last_received_at=shifted(row.last_received_at),
            )
        )
        ended = associations.c.ended_at.is_not(None)
        query = select(associations).where(associations.c.study_id == row.id, ended)
        for link in connection.execute(query).all():
            connection.execute(
                update(associations)
                .where(
                    associations.c.study_id == row.id,
                    associations.c.association == link.association,
                )
                .values(ended_at=shifted(link.ended_at))
            )


def complete_study(
    connection: Connection, study: OpenStudy, *, because: str, now: datetime
) -> bool:
    """Close a revision, unless an image arrived since `study` was read."""
    done = connection.execute(
        update(studies)
        .where(
            studies.c.id == study.id,
            studies.c.state == "receiving",
            studies.c.revision == study.revision,
            studies.c.last_received_at == study.last_received_at,
        )
        .values(state="complete", completed_at=now, completed_because=because)
    )
    if done.rowcount != 1:
        return False
    add_event(
        connection,
        at=now,
        action="study_complete",
        study_id=study.id,
        detail=f"revision {study.revision}: {because}",
    )
    return True
