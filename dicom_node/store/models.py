"""The models that scorers have verified; the rules choose among them without loading any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update

from dicom_node.domain.jobs import JobEvent, JobStage, JobState, next_state
from dicom_node.store.database import insert_ignore
from dicom_node.store.events import add_event
from dicom_node.store.tables import jobs, models


@dataclass(frozen=True, slots=True)
class OfferedModel:
    """A model as the rules see it; `description` is for people."""

    name: str
    version: str
    state: str
    reason: str | None
    weights_sha256: str | None
    description: Mapping[str, Any]
    seen_at: datetime


def record_model(
    connection: Connection,
    *,
    name: str,
    version: str,
    weights_sha256: str | None,
    description: Mapping[str, Any],
    reason: str | None,
    now: datetime,
) -> None:
    """Offer a model to the rules, or record why it is refused (`reason`)."""
    values = {
        "state": "refused" if reason else "offered",
        "reason": reason,
        "weights_sha256": weights_sha256,
        "description": dict(description),
        "seen_at": now,
    }
    # Scorers that start together record the same model: whoever comes second updates.
    connection.execute(
        insert_ignore(connection, models).values(name=name, version=version, **values)
    )
    connection.execute(
        update(models).where(models.c.name == name, models.c.version == version).values(values)
    )
    if not reason:
        queue_waiting(connection, name, version, now=now)


def not_offered(name: str, version: str | None) -> str:
    """Why a job waits in stage `wait_for_model`."""
    return f"model {' '.join(filter(None, [name, version]))} is not offered by any scorer yet"


def queue_waiting(connection: Connection, name: str, version: str, *, now: datetime) -> None:
    """Let the jobs go on that waited for a scorer to offer their model.

    One that turns out to be the same work as another job (study, input digest, model and version)
    ends as refused, since there is one result for each.
    """
    waiting = select(
        jobs.c.id, jobs.c.study_id, jobs.c.study_instance_uid, jobs.c.input_digest
    ).where(
        jobs.c.model == name,
        jobs.c.model_version.in_(["", version]),
        jobs.c.state == JobState.QUEUED.value,
        jobs.c.stage == JobStage.WAIT_FOR_MODEL.value,
    )
    for job in connection.execute(waiting.order_by(jobs.c.id)).all():
        twin = connection.execute(
            select(jobs.c.id).where(
                jobs.c.study_instance_uid == job.study_instance_uid,
                jobs.c.input_digest == job.input_digest,
                jobs.c.model == name,
                jobs.c.model_version == version,
                jobs.c.id != job.id,
            )
        ).scalar_one_or_none()
        if twin is None:
            values = {"stage": JobStage.SCORE.value, "model_version": version, "run_after": now}
            values["reason"] = None
        else:
            reason = f"job {twin} is for the same images, model and version"
            state = next_state(JobState.QUEUED, JobEvent.DUPLICATE)
            values = {"state": state.value, "stage": JobStage.DONE.value, "reason": reason}
            add_event(
                connection,
                at=now,
                action="job_duplicate",
                study_id=job.study_id,
                job_id=job.id,
                detail=reason,
            )
        connection.execute(
            update(jobs)
            .where(jobs.c.id == job.id, jobs.c.state == JobState.QUEUED.value)
            .values(values)
        )


def known_models(connection: Connection) -> list[OfferedModel]:
    """Every model, newest seen first."""
    rows = connection.execute(select(models).order_by(models.c.name, models.c.seen_at.desc()))
    return [OfferedModel(**row._mapping) for row in rows]


def offered_version(connection: Connection, name: str, version: str | None) -> str | None:
    """The version that a rule gets: the one it names, else the one seen last; None if none."""
    query = select(models.c.version).where(models.c.name == name, models.c.state == "offered")
    if version is not None:
        query = query.where(models.c.version == version)
    return connection.execute(query.order_by(models.c.seen_at.desc()).limit(1)).scalar_one_or_none()
