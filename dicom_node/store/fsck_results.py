"""Results and predictions that are missing or other than they were."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from hashlib import file_digest
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from sqlalchemy import Row, or_, select, update

from dicom_node.domain.jobs import JobStage, JobState
from dicom_node.store.files import stored
from dicom_node.store.fsck import Problem, Survey, outside
from dicom_node.store.predictions import load_prediction
from dicom_node.store.rebuild import build_again, is_untouched
from dicom_node.store.tables import jobs, results

_UNREADABLE = (
    OSError, EOFError, ValueError, TypeError, LookupError, RuntimeError, MemoryError,
    BadZipFile, zlib.error, struct.error,
)  # fmt: skip
"""What reading a prediction raises whose bytes are not those that were written."""


def check_results(survey: Survey) -> Iterator[Problem]:
    """Result objects: present, and the bytes that were built; and their previews."""
    with survey.database.read() as connection:
        rows = connection.execute(
            select(results, jobs.c.state)
            .join(jobs, jobs.c.id == results.c.job_id)
            .where(jobs.c.pruned_at.is_(None))
        ).all()
    for row in rows:
        path = stored(survey.store_dir, row.path)
        if path is None:
            yield outside(row.path, (row.job_id,))
        elif not path.is_file():
            if survey.is_kept(jobs, row.job_id):
                yield _lost_result(survey, row, "missing_result", "a result object has no file")
        elif _sha256(path) != row.sha256:
            what = "a result object is not the bytes that were built"
            yield _lost_result(survey, row, "changed_result", what)
        preview = row.preview_path and stored(survey.store_dir, row.preview_path)
        if preview and not preview.is_file() and survey.is_kept(jobs, row.job_id):
            yield Problem(
                "missing_preview",
                "the picture of a result has no file",
                "--repair forgets it",
                row.preview_path,
                (row.job_id,),
                repair=partial(_forget, survey, results, row.id, "preview_path"),
            )


def _sha256(path: Path) -> str:
    with suppress(OSError), path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
    return ""


def _forget(survey: Survey, table: Any, row_id: int, column: str) -> str:
    with survey.database.begin() as connection:
        connection.execute(update(table).where(table.c.id == row_id).values({column: None}))
    return "forgotten"


def _lost_result(survey: Survey, row: Row[Any], kind: str, what: str) -> Problem:
    """A result that nobody was sent is built again; one that may be in an archive is not."""
    with survey.database.read() as connection:
        untouched = is_untouched(connection, row.job_id)
    sent = "restore it from a backup or from the archive; never send another under its UID"
    return Problem(
        kind,
        what,
        "--repair has the job build its results again" if untouched else sent,
        row.path,
        (row.job_id,),
        repair=partial(_build_again, survey, row.job_id) if untouched else None,
    )


def _build_again(survey: Survey, job_id: int) -> str | None:
    with survey.database.begin() as connection:
        done = build_again(connection, job_id, store_dir=survey.store_dir, now=survey.now)
    return f"job {job_id} builds its results again" if done else None


def check_predictions(survey: Survey) -> Iterator[Problem]:
    """Predictions: needed, and readable, until the report is built; and then no more."""
    waiting = jobs.c.stage == JobStage.REPORT.value
    with survey.database.read() as connection:
        rows = connection.execute(
            select(jobs.c.id, jobs.c.stage, jobs.c.state, jobs.c.prediction_path).where(
                or_(waiting, jobs.c.prediction_path.is_not(None)),
                jobs.c.state != JobState.RUNNING.value,
                jobs.c.pruned_at.is_(None),
            )
        ).all()
    for row in rows:
        path = row.prediction_path and stored(survey.store_dir, row.prediction_path)
        if row.prediction_path and path is None:
            yield outside(row.prediction_path, (row.id,))
        elif not path or not path.is_file():
            yield _lost_prediction(survey, row, "missing_prediction", "a prediction has no file")
        elif row.stage == JobStage.REPORT.value and not _is_readable(path):
            what = "a prediction is not the bytes that were written"
            yield _lost_prediction(survey, row, "changed_prediction", what)


def _is_readable(path: Path) -> bool:
    try:
        load_prediction(path)
    except _UNREADABLE:
        return False
    return True


def _lost_prediction(survey: Survey, row: Any, kind: str, what: str) -> Problem:
    needed = row.stage == JobStage.REPORT.value
    return Problem(
        kind,
        what,
        "--repair has the job scored again" if needed else "--repair forgets it",
        row.prediction_path,
        (row.id,),
        repair=partial(_without_prediction, survey, row.id),
    )


def _without_prediction(survey: Survey, job_id: int) -> str:
    """Score the job again if its report still needs the prediction, else forget it.

    A job that is parked stays so: `jobs retry` brings it back, to the stage that it is at then.
    """
    idle = jobs.c.state != JobState.RUNNING.value
    with survey.database.begin() as connection:
        job = connection.execute(
            select(jobs.c.state, jobs.c.stage, jobs.c.prediction_path)
            .where(jobs.c.id == job_id, idle)
            .with_for_update()
        ).one_or_none()
        if job is None:
            return "left alone: it is being worked on"
        needed = job.stage == JobStage.REPORT.value
        path = job.prediction_path and stored(survey.store_dir, job.prediction_path)
        if path and path.is_file():
            if not needed:
                return "left alone: its report was built meanwhile"
            survey.put_aside(path)
        values: dict[str, Any] = {"prediction_path": None}
        if needed:
            values |= {"stage": JobStage.SCORE.value, "attempts": 0}
        connection.execute(update(jobs).where(jobs.c.id == job_id, idle).values(values))
    if not needed:
        return "forgotten"
    if job.state == JobState.QUEUED.value:
        return "scored again"
    return f"scored again once somebody retries it: `jobs retry {job_id}`"
