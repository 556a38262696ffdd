"""Whose data an association, a job or a study is about, as the audit trail needs it."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import Connection, func, select

from dicom_node.store.tables import associations, instances, jobs, studies


@dataclass(frozen=True, slots=True)
class Subject:
    """A study.

    Attributes
    ----------
    path
        One of its data sets, relative to the store; retention may have removed it.
    sop_classes
        SOP Class UID to number of instances that are meant.
    """

    study_instance_uid: str
    calling_ae_title: str
    path: str
    sop_classes: dict[str, int] = field(default_factory=dict)


def brought_by(connection: Connection, association: str) -> list[Subject]:
    """The studies that an association brought; `sop_classes` counts what was new."""
    query = select(associations.c.study_id).where(associations.c.association == association)
    found = []
    for study_id in connection.execute(query.order_by(associations.c.study_id)).scalars().all():
        counted = connection.execute(
            select(instances.c.sop_class_uid, func.count())
            .where(instances.c.study_id == study_id, instances.c.association == association)
            .group_by(instances.c.sop_class_uid)
        )
        counts = {str(uid): int(count) for uid, count in counted}
        found += _subjects(connection, study_id, counts)
    return found


def subject_of_job(connection: Connection, job_id: int) -> Subject | None:
    """The study of a job; None: there is no such job."""
    study_id = select(jobs.c.study_id).where(jobs.c.id == job_id).scalar_subquery()
    return next(iter(_subjects(connection, study_id)), None)


def subject_of_study(connection: Connection, study: int | str) -> Subject | None:
    """A study by its row or by its Study Instance UID; None: there is no such study."""
    if isinstance(study, str):
        study_id = select(studies.c.id).where(studies.c.study_instance_uid == study)
        return next(iter(_subjects(connection, study_id.scalar_subquery())), None)
    return next(iter(_subjects(connection, study)), None)


def _subjects(
    connection: Connection, study_id: object, sop_classes: dict[str, int] | None = None
) -> list[Subject]:
    newest = (
        select(instances.c.path)
        .where(instances.c.study_id == study_id)
        .order_by(instances.c.id.desc())
        .limit(1)
    )
    path: str | None = connection.execute(newest).scalar()
    row = connection.execute(select(studies).where(studies.c.id == study_id)).one_or_none()
    if row is None:
        return []
    uid, title = row.study_instance_uid, row.calling_ae_title
    return [Subject(uid, title, path or "", sop_classes or {})]
