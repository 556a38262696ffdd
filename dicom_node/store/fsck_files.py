"""Images that rows name and that are missing or other than they were; files that no row names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, or_, select

from dicom_node.domain.jobs import JobStage
from dicom_node.store.digests import data_set_digest
from dicom_node.store.files import ROOMS, link_durably, stored
from dicom_node.store.fsck import Problem, Repair, Survey, outside
from dicom_node.store.lost_found import LOST_AND_FOUND
from dicom_node.store.tables import instances, job_inputs, jobs, quarantine, results

_FEW_FILES = 10
_SEND_AGAIN = "restore it from a backup, or send the study again: that puts it back"


def check_instances(survey: Survey) -> Iterator[Problem]:
    """Images: present, and the same bytes as when they came: by their size or, on request, all."""
    with survey.database.read() as connection:
        rows = connection.execute(select(instances).where(instances.c.pruned_at.is_(None))).all()
        users = _jobs_by_instance(connection)
    for row in rows:
        path = stored(survey.store_dir, row.path)
        if path is None:
            yield outside(row.path, users[row.id])
        elif not path.is_file():
            if not survey.is_kept(instances, row.id):
                continue
            yield Problem(
                "missing_image",
                "an image that was acknowledged has no file",
                _SEND_AGAIN,
                row.path,
                users[row.id],
                repair=_found_again(survey, row, path),
            )
        elif (survey.deep or _size(path) != row.size) and _digest(
            path, row.transfer_syntax_uid
        ) != row.digest:
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


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return -1


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


def check_quarantine(survey: Survey) -> Iterator[Problem]:
    """Files kept because nobody could read their header."""
    with survey.database.read() as connection:
        rows = connection.execute(select(quarantine).where(quarantine.c.pruned_at.is_(None))).all()
    for row in rows:
        path = stored(survey.store_dir, row.path)
        if path is None:
            yield outside(row.path, ())
        elif not path.is_file() and survey.is_kept(quarantine, row.id):
            what = "a quarantined file is missing"
            yield Problem("missing_quarantine", what, "restore it from a backup", row.path)


def check_orphans(survey: Survey) -> Iterator[Problem]:
    """Files of the store that no row names, once they are old enough to be nobody's work.

    A file that retention gave up and that is back, from a backup for example, is one, too.
    """
    present = [path for room in ROOMS for path in _files(survey.store_dir / room)]
    with survey.database.read() as connection:
        known, reporting = _known(connection)
    orphans = []
    for path in present:
        relative = path.relative_to(survey.store_dir).as_posix()
        kept_for_inspection = path.parent.name in reporting and relative.startswith("results/")
        if path.suffix == ".part":
            continue  # `fsck_leftovers` removes it
        if relative not in known and not kept_for_inspection and _is_settled(survey, path):
            orphans.append((relative, path))
    images = [item for item in orphans if item[0].startswith("instances/")]
    strange = len(images) >= _FEW_FILES and 2 * len(images) > len(present)
    for relative, path in orphans:
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
            repair=None if strange else partial(_put_orphan_aside, survey, relative, path),
        )


def _is_settled(survey: Survey, path: Path) -> bool:
    """Whether a file is nobody's work: old, and without another name in the inbox.

    An image is as old as its arrival, and the assembler may come to it hours later.
    """
    try:
        return survey.is_old(path) and path.lstat().st_nlink == 1
    except OSError:
        return False


def _put_orphan_aside(survey: Survey, relative: str, path: Path) -> str:
    # In this order: the assembler removes the other name after its row is there.
    if not _is_settled(survey, path):
        return "left alone: it is being worked on"
    with survey.database.read() as connection:
        if relative in _known(connection)[0]:
            return "left alone: a row names it meanwhile"
    return survey.put_aside(path)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def _known(connection: Connection) -> tuple[set[str], set[str]]:
    """Paths that rows name, and jobs whose rejected results are kept for inspection."""
    known: set[str] = set()
    for query in (
        select(instances.c.path).where(_kept(instances)),
        select(quarantine.c.path).where(_kept(quarantine)),
        select(jobs.c.prediction_path).where(_kept(jobs), jobs.c.prediction_path.is_not(None)),
        select(results.c.path).join(jobs, jobs.c.id == results.c.job_id).where(_kept(jobs)),
        select(results.c.preview_path)
        .join(jobs, jobs.c.id == results.c.job_id)
        .where(_kept(jobs), results.c.preview_path.is_not(None)),
    ):
        known.update(connection.execute(query).scalars())
    parked = select(jobs.c.id).where(
        jobs.c.stage == JobStage.REPORT.value, jobs.c.pruned_at.is_(None)
    )
    return known, {str(job_id) for job_id in connection.execute(parked).scalars()}


def _kept(table: Any) -> ColumnElement[bool]:
    """Not given up by retention, or given up and not removed yet."""
    return or_(table.c.pruned_at.is_(None), table.c.pruned_bytes.is_(None))
