"""The models that scorers have verified; the rules choose among them without loading any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, exists, select, update

from dicom_node.domain.jobs import JobStage, JobState
from dicom_node.store.database import insert_ignore
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
    """Let the jobs go on that waited for a scorer to offer their model."""
    twin = jobs.alias()
    done_already = exists().where(
        twin.c.study_instance_uid == jobs.c.study_instance_uid,
        twin.c.input_digest == jobs.c.input_digest,
        twin.c.model == name,
        twin.c.model_version == version,
        twin.c.id != jobs.c.id,
    )
    connection.execute(
        update(jobs)
        .where(
            jobs.c.model == name,
            jobs.c.model_version.in_(["", version]),
            jobs.c.state == JobState.QUEUED.value,
            jobs.c.stage == JobStage.WAIT_FOR_MODEL.value,
            ~done_already,
        )
        .values(
            model_version=version,
            stage=JobStage.SCORE.value,
            reason=None,
            run_after=now,
        )
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
