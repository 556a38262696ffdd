"""What a job came to: findings, result objects and the results they replace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from dicom_node.domain.findings import Finding, Prediction
from dicom_node.domain.jobs import JobEvent, JobStage
from dicom_node.store.deliveries import add_deliveries
from dicom_node.store.jobs import ClaimedJob, settle
from dicom_node.store.tables import findings, jobs, results


@dataclass(frozen=True, slots=True)
class NewResult:
    """A result object whose bytes are already durable under `path`."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    path: str
    preview_path: str | None
    sha256: str


def settle_predicted(
    connection: Connection,
    job: ClaimedJob,
    prediction: Prediction,
    *,
    prediction_path: str | None,
    now: datetime,
) -> None:
    """Write the findings and hand the job to the report stage; attempts start again from 0.

    A study that was not analysed and whose route wants no report of that ends here as refused.

    Raises
    ------
    LeaseLost
        The job is no longer this worker's; nothing was written.
    """
    silent_refusal = prediction.not_analysed is not None and not job.report_refusals
    event = JobEvent.REPORT_REFUSAL if silent_refusal else JobEvent.PREDICT
    connection.execute(findings.delete().where(findings.c.job_id == job.id))
    if prediction.findings:
        connection.execute(
            insert(findings),
            [_finding_row(job.id, i, item) for i, item in enumerate(prediction.findings)],
        )
    settle(
        connection,
        job,
        event,
        now=now,
        stage=(JobStage.DONE if silent_refusal else JobStage.REPORT).value,
        attempts=0 if not silent_refusal else job.attempts,
        run_after=now,
        reason=prediction.not_analysed,
        engine=prediction.engine,
        marks=list(prediction.marks),
        prediction_path=prediction_path,
        scored_at=now,
    )


def _finding_row(job_id: int, position: int, item: Finding) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "position": position,
        "code": item.code.value,
        "scheme": item.code.scheme,
        "meaning": item.code.meaning,
        "probability": item.probability,
        "threshold": item.threshold,
        "present": item.present,
        "level": item.level.value,
        "sop_instance_uid": item.sop_instance_uid,
        "frame_number": item.frame_number,
        "box": list(item.box) if item.box else None,
    }


def settle_reported(
    connection: Connection,
    job: ClaimedJob,
    made: Sequence[NewResult],
    *,
    not_analysed: bool,
    now: datetime,
) -> None:
    """Record the result objects and their deliveries in one transaction (the outbox).

    Raises
    ------
    LeaseLost
        The job is no longer this worker's; roll back.
    """
    event = JobEvent.REPORT_REFUSAL if not_analysed else JobEvent.REPORT
    settle(connection, job, event, now=now, stage=JobStage.DONE.value)
    for item in made:
        result_id = connection.execute(
            insert(results)
            .values(
                job_id=job.id,
                kind=item.kind,
                sop_class_uid=item.sop_class_uid,
                sop_instance_uid=item.sop_instance_uid,
                series_instance_uid=item.series_instance_uid,
                path=item.path,
                preview_path=item.preview_path,
                sha256=item.sha256,
                created_at=now,
            )
            .returning(results.c.id)
        ).scalar_one()
        add_deliveries(connection, job.id, result_id, job.destinations, now=now)


def result_files(connection: Connection, job_id: int) -> dict[str, str]:
    """Kind to stored path of a job's result objects; none once retention gave them up."""
    query = (
        select(results.c.kind, results.c.path)
        .join(jobs, jobs.c.id == results.c.job_id)
        .where(results.c.job_id == job_id, jobs.c.pruned_at.is_(None))
    )
    return {row.kind: row.path for row in connection.execute(query)}


def predecessor_results(connection: Connection, job: ClaimedJob) -> dict[str, str]:
    """Kind to stored path of the newest earlier results that this job's results replace."""
    seen: set[int] = set()
    candidate = job.predecessor_id
    while candidate is not None and candidate not in seen:
        seen.add(candidate)
        files = result_files(connection, candidate)
        if files:
            return files
        candidate = connection.execute(
            select(jobs.c.predecessor_id).where(jobs.c.id == candidate)
        ).scalar_one_or_none()
    return {}
