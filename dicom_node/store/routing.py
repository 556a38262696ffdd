"""What the rules see and what they decide: complete studies in, decisions and jobs out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from dicom_node.domain.jobs import JobStage, JobState
from dicom_node.domain.study import Role
from dicom_node.store.database import insert_ignore
from dicom_node.store.events import add_event
from dicom_node.store.tables import decisions, instances, job_inputs, jobs, studies


@dataclass(frozen=True, slots=True, eq=False)
class StoredInstance:
    """One instance of a study as the rules see it."""

    id: int
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    digest: str
    identity_digest: str
    has_patient_id: bool
    role: Role
    header: Mapping[str, Any]
    received_at: datetime
    pruned: bool = False


@dataclass(frozen=True, slots=True)
class CompleteStudy:
    """A study whose revision is complete and waits for the rules."""

    id: int
    study_instance_uid: str
    revision: int
    calling_ae_title: str
    last_received_at: datetime
    completed_at: datetime
    instances: tuple[StoredInstance, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a route said to a series, or to one instance of it."""

    route: str
    series_instance_uid: str
    sop_instance_uid: str | None
    accepted: bool
    reason: str


@dataclass(frozen=True, slots=True)
class NewJob:
    """What the rules ask for."""

    study_id: int
    study_instance_uid: str
    revision: int
    route: str
    model: str
    model_version: str
    input_digest: str
    instance_ids: tuple[int, ...]
    priority: int
    out_of_scope: str
    result_kinds: tuple[str, ...]
    report_refusals: bool
    destinations: tuple[str, ...]
    received_at: datetime
    completed_at: datetime


def next_complete_study(connection: Connection) -> CompleteStudy | None:
    """The study that has waited longest for the rules, locked, with its current instances."""
    row = connection.execute(
        select(studies)
        .where(studies.c.state == "complete")
        .order_by(studies.c.completed_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if row is None:
        return None
    found = connection.execute(
        select(instances)
        .where(instances.c.study_id == row.id, instances.c.conflicts_with.is_(None))
        .order_by(instances.c.id)
    ).all()
    return CompleteStudy(
        id=row.id,
        study_instance_uid=row.study_instance_uid,
        revision=row.revision,
        calling_ae_title=row.calling_ae_title,
        last_received_at=row.last_received_at,
        completed_at=row.completed_at,
        instances=tuple(_stored(item) for item in found),
    )


def _stored(row: Any) -> StoredInstance:
    return StoredInstance(
        id=row.id,
        series_instance_uid=row.series_instance_uid,
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        digest=row.digest,
        identity_digest=row.identity_digest,
        has_patient_id=row.has_patient_id,
        role=Role(row.role),
        header=row.header,
        received_at=row.received_at,
        pruned=row.pruned_at is not None,
    )


def mark_routed(
    connection: Connection, study: CompleteStudy, said: Sequence[Decision] | Iterable[Decision]
) -> None:
    """Record what the rules said and take the study off their list."""
    rows = [
        {
            "study_id": study.id,
            "revision": study.revision,
            "route": item.route,
            "series_instance_uid": item.series_instance_uid,
            "sop_instance_uid": item.sop_instance_uid,
            "accepted": item.accepted,
            "reason": item.reason,
        }
        for item in said
    ]
    if rows:
        connection.execute(insert(decisions), rows)
    connection.execute(update(studies).where(studies.c.id == study.id).values(state="routed"))


def add_job(
    connection: Connection,
    job: NewJob,
    *,
    now: datetime,
    state: JobState = JobState.QUEUED,
    stage: JobStage = JobStage.SCORE,
    reason: str | None = None,
    notes: Sequence[str] = (),
) -> int | None:
    """Queue a job (or record it as refused or parked at once), unless it exists.

    Returns
    -------
    int or None
        The job's id; None if the same study, input, model and version already has one.
    """
    predecessor = connection.execute(
        select(jobs.c.id)
        .where(jobs.c.study_id == job.study_id, jobs.c.model == job.model)
        .order_by(jobs.c.revision.desc(), jobs.c.id.desc())
        .limit(1)
    ).scalar_one_or_none()
    row = connection.execute(
        insert_ignore(connection, jobs)
        .values(
            study_id=job.study_id,
            study_instance_uid=job.study_instance_uid,
            revision=job.revision,
            route=job.route,
            model=job.model,
            model_version=job.model_version,
            input_digest=job.input_digest,
            state=state.value,
            stage=stage.value,
            reason=reason,
            notes=list(notes),
            priority=job.priority,
            out_of_scope=job.out_of_scope,
            result_kinds=list(job.result_kinds),
            report_refusals=job.report_refusals,
            destinations=list(job.destinations),
            run_after=now,
            predecessor_id=predecessor,
            received_at=job.received_at,
            completed_at=job.completed_at,
            created_at=now,
        )
        .returning(jobs.c.id)
    ).one_or_none()
    if row is None:
        return None
    inputs = [
        {"job_id": row.id, "position": position, "instance_id": instance_id}
        for position, instance_id in enumerate(job.instance_ids)
    ]
    if inputs:
        connection.execute(insert(job_inputs), inputs)
    add_event(
        connection,
        at=now,
        action=f"job_{state.value}",
        study_id=job.study_id,
        job_id=row.id,
        detail=reason,
    )
    return int(row.id)
