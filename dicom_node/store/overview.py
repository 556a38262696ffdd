"""What people and scripts read: jobs and studies, in the shapes that we keep stable."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, Table, func, select

from dicom_node.store.deliveries import OPEN
from dicom_node.store.tables import (
    attempts,
    decisions,
    deliveries,
    events,
    findings,
    instances,
    jobs,
    quarantine,
    results,
    studies,
)


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="milliseconds") if moment else None


def _seconds(start: datetime, end: datetime | None) -> float | None:
    return round((end - start).total_seconds(), 3) if end else None


def _by_job(connection: Connection, table: Table, ids: Sequence[int]) -> dict[int, list[Row[Any]]]:
    grouped: dict[int, list[Row[Any]]] = defaultdict(list)
    for row in connection.execute(
        select(table).where(table.c.job_id.in_(ids)).order_by(table.c.id)
    ):
        grouped[row.job_id].append(row)
    return grouped


def job_rows(
    connection: Connection,
    *,
    store_dir: Path,
    state: str | None = None,
    job_id: int | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Jobs, newest first, as `jobs list --json` prints them.

    Parameters
    ----------
    store_dir
        Stored paths are relative to it; the rows hold absolute ones.
    """
    query = select(jobs).order_by(jobs.c.id.desc())
    if state is not None:
        query = query.where(jobs.c.state == state)
    if job_id is not None:
        query = query.where(jobs.c.id == job_id)
    rows = connection.execute(query.limit(limit)).all()
    ids = [row.id for row in rows]
    found = _by_job(connection, findings, ids)
    made = _by_job(connection, results, ids)
    sent = _by_job(connection, deliveries, ids)
    return [
        _job(row, found[row.id], made[row.id], sent[row.id], store_dir=store_dir) for row in rows
    ]


def _job(
    row: Row[Any],
    found: Iterable[Row[Any]],
    made: Iterable[Row[Any]],
    sent: Iterable[Row[Any]],
    *,
    store_dir: Path,
) -> dict[str, Any]:
    return {
        "job_id": row.id,
        "study_instance_uid": row.study_instance_uid,
        "revision": row.revision,
        "route": row.route,
        "model": row.model or None,
        "model_version": row.model_version or None,
        "state": row.state,
        "stage": row.stage,
        "reason": row.reason or "; ".join(row.notes or []) or None,
        "marks": row.marks or [],
        "priority": row.priority,
        "attempts": row.attempts,
        "engine": row.engine,
        "input_digest": row.input_digest,
        "findings": [
            {
                "code": item.code,
                "scheme": item.scheme,
                "meaning": item.meaning,
                "probability": item.probability,
                "threshold": item.threshold,
                "present": item.present,
                "level": item.level,
                "sop_instance_uid": item.sop_instance_uid,
                "box": item.box,
            }
            for item in found
        ],
        "results": [
            {
                "kind": item.kind,
                "sop_instance_uid": item.sop_instance_uid,
                "series_instance_uid": item.series_instance_uid,
                "path": str(store_dir / item.path),
                "preview": str(store_dir / item.preview_path) if item.preview_path else None,
                "sha256": item.sha256,
            }
            for item in made
        ],
        "deliveries": [
            {
                "destination": item.destination,
                "state": item.state,
                "attempts": item.attempts,
                "last_error": item.last_error,
                "next_attempt_at": _iso(item.run_after) if item.state in OPEN else None,
                "sent_at": _iso(item.sent_at),
                "confirmation_requests": item.asked,
                "denials": item.denials,
                "delivered_at": _iso(item.delivered_at),
            }
            for item in sent
        ],
        "received_at": _iso(row.received_at),
        "completed_at": _iso(row.completed_at),
        "scored_at": _iso(row.scored_at),
        "delivered_at": _iso(row.delivered_at),
        "waived_at": _iso(row.waived_at),
        "waived_because": row.waived_because,
        "pruned_at": _iso(row.pruned_at),
    }


def job_detail(connection: Connection, job_id: int, *, store_dir: Path) -> dict[str, Any] | None:
    """One job with its attempts and events; None if there is none."""
    rows = job_rows(connection, store_dir=store_dir, job_id=job_id)
    if not rows:
        return None
    tried = connection.execute(
        select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.id)
    )
    happened = connection.execute(
        select(events).where(events.c.job_id == job_id).order_by(events.c.id)
    )
    return rows[0] | {
        "attempt_log": [
            {
                "stage": item.stage,
                "worker": item.worker,
                "started_at": _iso(item.started_at),
                "ended_at": _iso(item.ended_at),
                "seconds": _seconds(item.started_at, item.ended_at),
                "outcome": item.outcome,
                "error": item.error,
                "peak_memory_bytes": item.peak_memory_bytes,
            }
            for item in tried
        ],
        "events": [
            {"at": _iso(item.at), "action": item.action, "detail": item.detail} for item in happened
        ],
    }


def study_rows(
    connection: Connection,
    *,
    study_id: int | None = None,
    study_instance_uid: str | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Studies, newest first, with their counts; all of them, or the one that is named."""
    count = (
        select(
            instances.c.study_id,
            func.count().label("instances"),
            func.count(instances.c.series_instance_uid.distinct()).label("series"),
        )
        .group_by(instances.c.study_id)
        .subquery()
    )
    query = (
        select(studies, count.c.instances, count.c.series)
        .join(count, count.c.study_id == studies.c.id)
        .order_by(studies.c.id.desc())
        .limit(limit)
    )
    if study_id is not None:
        query = query.where(studies.c.id == study_id)
    if study_instance_uid is not None:
        query = query.where(studies.c.study_instance_uid == study_instance_uid)
    return [
        {
            "study_id": row.id,
            "study_instance_uid": row.study_instance_uid,
            "revision": row.revision,
            "state": row.state,
            "series": row.series,
            "instances": row.instances,
            "calling_ae_title": row.calling_ae_title,
            "first_received_at": _iso(row.first_received_at),
            "last_received_at": _iso(row.last_received_at),
            "completed_at": _iso(row.completed_at),
            "completed_because": row.completed_because,
        }
        for row in connection.execute(query)
    ]


def study_detail(connection: Connection, study_instance_uid: str) -> dict[str, Any] | None:
    """One study with its series, what the rules said and its events; None if unknown."""
    found = study_rows(connection, study_instance_uid=study_instance_uid)
    if not found:
        return None
    study_id = found[0]["study_id"]
    series = connection.execute(
        select(
            instances.c.series_instance_uid,
            instances.c.role,
            func.count().label("instances"),
            func.count(instances.c.conflicts_with).label("conflicts"),
        )
        .where(instances.c.study_id == study_id)
        .group_by(instances.c.series_instance_uid, instances.c.role)
    )
    said = connection.execute(
        select(decisions).where(decisions.c.study_id == study_id).order_by(decisions.c.id)
    )
    happened = connection.execute(
        select(events).where(events.c.study_id == study_id).order_by(events.c.id)
    )
    return found[0] | {
        "series_list": [dict(row._mapping) for row in series],
        "decisions": [
            {
                "revision": row.revision,
                "route": row.route,
                "series_instance_uid": row.series_instance_uid,
                "sop_instance_uid": row.sop_instance_uid,
                "accepted": row.accepted,
                "reason": row.reason,
            }
            for row in said
        ],
        "events": [
            {"at": _iso(row.at), "job_id": row.job_id, "action": row.action, "detail": row.detail}
            for row in happened
        ],
    }


def quarantined_files(connection: Connection) -> list[dict[str, Any]]:
    """Files that belong to no study because their header cannot be read, with the reason."""
    rows = connection.execute(select(quarantine).order_by(quarantine.c.id.desc()))
    return [dict(row._mapping) | {"received_at": _iso(row.received_at)} for row in rows]
