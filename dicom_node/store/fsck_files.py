"""Files that rows name and that are missing or other than they were; files that no row names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from hashlib import file_digest
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, func, select, update

from dicom_node.domain.jobs import JobEvent, JobStage, JobState, next_state
from dicom_node.store.deliveries import PENDING
from dicom_node.store.digests import data_set_digest
from dicom_node.store.events import add_event
from dicom_node.store.files import ROOMS, link_durably, stored
from dicom_node.store.fsck import LOST_AND_FOUND, Problem, Repair, Survey
from dicom_node.store.tables import deliveries, instances, job_inputs, jobs, quarantine, results

_FEW_FILES = 10
_SEND_AGAIN = "restore it from a backup, or send the study again: that puts it back"


def check_instances(survey: Survey) -> Iterator[Problem]:
    """Images: present and, on request, the same bytes as when they came."""
    with survey.database.read() as connection:
        rows = connection.execute(select(instances).where(instances.c.pruned_at.is_(None))).all()
        users = _jobs_by_instance(connection)
    for row in rows:
        path = stored(survey.store_dir, row.path)
        if path is None:
            yield _outside(row.path, users[row.id])
        elif not path.is_file():
            yield Problem(
                "missing_image",
                "an image that was acknowledged has no file",
                _SEND_AGAIN,
                row.path,
                users[row.id],
                repair=_found_again(survey, row, path),
            )
        elif survey.deep and _digest(path, row.transfer_syntax_uid) != row.digest:
            yield Problem(
                "changed_image",
                "an image is not the bytes that were received",
                f"--repair moves it to {LOST_AND_FOUND}; then " + _SEND_AGAIN,
                row.path,
                users[row.id],
                repair=partial(survey.put_aside, path),
            )


def _jobs_by_instance(connection: Connection) -> defaultdict[int, tuple[int, ...]]:
    found: defaultdict[int, tuple[int, ...]] = defaultdict(tuple)
    for job_id, instance_id in connection.execute(
        select(job_inputs.c.job_id, job_inputs.c.instance_id).order_by(job_inputs.c.job_id)
    ):
        found[instance_id] += (job_id,)
    return found


def _outside(path: str, users: tuple[int, ...]) -> Problem:
    what = "a row names a file outside of the store; it is neither read nor removed"
    return Problem("bad_path", what, "correct the row by hand", path, users)


def _digest(path: Path, transfer_syntax_uid: str) -> str:
    with suppress(OSError):
        return data_set_digest(path, transfer_syntax_uid)
    return ""


def _found_again(survey: Survey, row: Row[Any], path: Path) -> Repair | None:
    """Link an image back from `lost+found`, if the very same bytes lie there."""
    kept = survey.lost_and_found / row.path
    if not kept.is_file() or _digest(kept, row.transfer_syntax_uid) != row.digest:
        return None

    def repair() -> str:
        link_durably(kept, path)
        return f"linked back from {LOST_AND_FOUND}"

    return repair


def check_results(survey: Survey) -> Iterator[Problem]:
    """Result objects, their previews and predictions."""
    with survey.database.read() as connection:
        rows = connection.execute(
            select(results, jobs.c.state)
            .join(jobs, jobs.c.id == results.c.job_id)
            .where(jobs.c.pruned_at.is_(None))
        ).all()
    for row in rows:
        path = stored(survey.store_dir, row.path)
        if path is None:
            yield _outside(row.path, (row.job_id,))
        elif not path.is_file():
            yield _lost_result(survey, row, "missing_result", "a result object has no file")
        elif _sha256(path) != row.sha256:
            what = "a result object is not the bytes that were built"
            yield _lost_result(survey, row, "changed_result", what)
        preview = row.preview_path and stored(survey.store_dir, row.preview_path)
        if preview and not preview.is_file():
            yield Problem(
                "missing_preview",
                "the picture of a result has no file",
                "--repair forgets it",
                row.preview_path,
                (row.job_id,),
                repair=partial(_forget, survey, results, row.id, "preview_path"),
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _forget(survey: Survey, table: Any, row_id: int, column: str) -> str:
    with survey.database.begin() as connection:
        connection.execute(update(table).where(table.c.id == row_id).values({column: None}))
    return "forgotten"


def _lost_result(survey: Survey, row: Row[Any], kind: str, what: str) -> Problem:
    """A result that nobody was sent is built again; one that may be in an archive is not."""
    with survey.database.read() as connection:
        untouched = _is_untouched(connection, row.job_id)
    sent = "restore it from a backup or from the archive; never send another under its UID"
    return Problem(
        kind,
        what,
        "--repair has the job build its results again" if untouched else sent,
        row.path,
        (row.job_id,),
        repair=partial(_build_again, survey, row.job_id) if untouched else None,
    )


def _is_untouched(connection: Connection, job_id: int) -> bool:
    state = connection.execute(select(jobs.c.state).where(jobs.c.id == job_id)).scalar_one()
    tried = connection.execute(
        select(func.count()).where(
            deliveries.c.job_id == job_id,
            (deliveries.c.state != PENDING) | (deliveries.c.attempts > 0),
        )
    ).scalar_one()
    return not tried and state in {JobState.SCORED.value, JobState.REFUSED.value}


def _build_again(survey: Survey, job_id: int) -> str | None:
    with survey.database.begin() as connection:
        job = connection.execute(select(jobs).where(jobs.c.id == job_id).with_for_update()).one()
        if not _is_untouched(connection, job_id):
            return None
        for path in connection.execute(select(results.c.path).where(results.c.job_id == job_id)):
            file = stored(survey.store_dir, path[0])
            if file is not None and file.is_file():
                survey.put_aside(file)
        prediction = job.prediction_path and stored(survey.store_dir, job.prediction_path)
        stage = JobStage.REPORT if prediction and prediction.is_file() else JobStage.SCORE
        for table in (deliveries, results):
            connection.execute(delete(table).where(table.c.job_id == job_id))
        connection.execute(
            update(jobs)
            .where(jobs.c.id == job_id)
            .values(
                state=next_state(JobState(job.state), JobEvent.REBUILD).value,
                stage=stage.value,
                attempts=0,
                run_after=survey.now,
            )
        )
        add_event(
            connection,
            at=survey.now,
            action="job_rebuild",
            study_id=job.study_id,
            job_id=job_id,
            detail="its results were lost before anybody was sent them",
        )
    return f"job {job_id} builds its results again"


def check_predictions(survey: Survey) -> Iterator[Problem]:
    """Predictions: needed until the report is built, and then no more."""
    with survey.database.read() as connection:
        rows = connection.execute(
            select(jobs.c.id, jobs.c.stage, jobs.c.state, jobs.c.prediction_path).where(
                jobs.c.prediction_path.is_not(None), jobs.c.pruned_at.is_(None)
            )
        ).all()
    for row in rows:
        path = stored(survey.store_dir, row.prediction_path)
        if path is None:
            yield _outside(row.prediction_path, (row.id,))
        elif not path.is_file() and row.state != JobState.RUNNING.value:
            waiting = row.stage == JobStage.REPORT.value
            yield Problem(
                "missing_prediction",
                "a prediction has no file",
                "--repair has the job scored again" if waiting else "--repair forgets it",
                row.prediction_path,
                (row.id,),
                repair=partial(_without_prediction, survey, row.id),
            )


def _without_prediction(survey: Survey, job_id: int) -> str:
    with survey.database.begin() as connection:
        scored_again = connection.execute(
            update(jobs)
            .where(
                jobs.c.id == job_id,
                jobs.c.stage == JobStage.REPORT.value,
                jobs.c.state != JobState.RUNNING.value,
            )
            .values(stage=JobStage.SCORE.value, attempts=0, prediction_path=None)
        ).rowcount
        connection.execute(
            update(jobs)
            .where(jobs.c.id == job_id, jobs.c.stage == JobStage.DONE.value)
            .values(prediction_path=None)
        )
    return "scored again" if scored_again else "forgotten"


def check_quarantine(survey: Survey) -> Iterator[Problem]:
    """Files kept because nobody could read their header."""
    with survey.database.read() as connection:
        rows = connection.execute(select(quarantine).where(quarantine.c.pruned_at.is_(None))).all()
    for row in rows:
        path = stored(survey.store_dir, row.path)
        if path is None:
            yield _outside(row.path, ())
        elif not path.is_file():
            what = "a quarantined file is missing"
            yield Problem("missing_quarantine", what, "restore it from a backup", row.path)


def check_orphans(survey: Survey) -> Iterator[Problem]:
    """Files of the store that no row names, once they are old enough to be nobody's work."""
    present = [path for room in ROOMS for path in _files(survey.store_dir / room)]
    with survey.database.read() as connection:
        known, reporting = _known(connection)
    orphans = []
    for path in present:
        relative = path.relative_to(survey.store_dir).as_posix()
        kept_for_inspection = path.parent.name in reporting and relative.startswith("results/")
        if relative not in known and not kept_for_inspection and survey.is_old(path):
            orphans.append((relative, path))
    images = [item for item in orphans if item[0].startswith("instances/")]
    strange = len(images) >= _FEW_FILES and 2 * len(images) > len(present)
    for relative, path in orphans:
        if path.suffix == ".part":
            continue  # `fsck_leftovers` removes it
        remedy = f"--repair moves it to {LOST_AND_FOUND}"
        if relative.startswith("instances/"):
            remedy += "; if it was acknowledged, send it from there: `dicom-node send`"
        if strange:
            remedy = "most images are in no row: is this the database of this home? Nothing moves"
        yield Problem(
            "orphan",
            "a file of the store is in no row",
            remedy,
            relative,
            repair=None if strange else partial(survey.put_aside, path),
        )


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def _known(connection: Connection) -> tuple[set[str], set[str]]:
    """Paths that rows name, and jobs whose rejected results are kept for inspection."""
    known: set[str] = set()
    columns = (
        instances.c.path,
        jobs.c.prediction_path,
        results.c.path,
        results.c.preview_path,
        quarantine.c.path,
    )
    for column in columns:
        known.update(connection.execute(select(column).where(column.is_not(None))).scalars())
    parked = select(jobs.c.id).where(
        jobs.c.stage == JobStage.REPORT.value, jobs.c.pruned_at.is_(None)
    )
    return known, {str(job_id) for job_id in connection.execute(parked).scalars()}
