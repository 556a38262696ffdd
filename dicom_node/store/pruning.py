"""Removing the files that retention gave up: the second half of what `retention` marks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from errno import errorcode
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection, Row, select, update

from dicom_node.domain.retention import RetentionPolicy
from dicom_node.store.database import Database
from dicom_node.store.files import stored, waiting_for_the_disk
from dicom_node.store.retention import (
    due_quarantine,
    due_studies,
    mark_quarantine,
    mark_study,
    proven_studies,
)
from dicom_node.store.studies import lock_study
from dicom_node.store.tables import instances, jobs, quarantine, studies

BATCH = 20
"""Studies at a time: between two batches the free disk is looked at again."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pruned:
    """What one step gave up.

    Attributes
    ----------
    studies, quarantined
        Studies and quarantined files marked.
    freed_bytes
        Size of the files removed, those of earlier, interrupted steps included.
    """

    studies: int
    quarantined: int
    freed_bytes: int

    def __bool__(self) -> bool:
        return bool(self.studies or self.quarantined or self.freed_bytes)


class Pruner:
    """Gives up what is due, a batch at a time.

    Parameters
    ----------
    free_bytes
        Free space of the disk that holds `store_dir`.
    on_removed
        Called with the Study Instance UID and size of what was removed of a study; twice after a
        crash.
    """

    def __init__(
        self,
        database: Database,
        store_dir: Path,
        policy: RetentionPolicy,
        clock: Callable[[], datetime],
        free_bytes: Callable[[], int] | None = None,
        on_removed: Callable[[str, int], None] = lambda _uid, _bytes: None,
    ) -> None:
        self._database = database
        self._store_dir = store_dir
        self._policy = policy
        self._clock = clock
        self._on_removed = on_removed
        self._free_bytes = free_bytes or (lambda: shutil.disk_usage(store_dir).free)

    def due(self, limit: int = BATCH) -> list[int]:
        """Ids of studies that the next steps would give up by age."""
        with self._database.read() as connection:
            return due_studies(connection, self._policy, now=self._clock(), limit=limit)

    def due_quarantine(self) -> int:
        """How many quarantined files the next step would give up."""
        with self._database.read() as connection:
            return due_quarantine(connection, self._policy, now=self._clock())

    def below_floor(self) -> list[int]:
        """Ids of studies that may go because the disk is below its floor; empty if it is not."""
        if self._free_bytes() >= self._policy.minimum_free_bytes:
            return []
        with self._database.read() as connection:
            return proven_studies(connection, limit=BATCH)

    def step(self) -> Pruned:
        """Give up a batch by age, then by the floor of free disk, one study at a time.

        Raises
        ------
        Transient
            The database or the disk is away; what was marked is finished by the next step.
        """
        freed = self._sweep()
        marked = sum(self._give_up(study_id, self._policy) for study_id in self.due())
        with self._database.begin() as connection:
            quarantined = mark_quarantine(connection, self._policy, now=self._clock())
        freed += self._sweep()
        for study_id in self.below_floor():
            if self._free_bytes() >= self._policy.minimum_free_bytes:
                break
            marked += self._give_up(study_id, None)
            freed += self._sweep()
        pruned = Pruned(marked, quarantined, freed)
        if pruned:
            _log.info("store pruned", action="store_pruned", **asdict(pruned))
        return pruned

    def _give_up(self, study_id: int, policy: RetentionPolicy | None) -> bool:
        with self._database.begin() as connection:
            return mark_study(connection, study_id, policy, now=self._clock())

    def _sweep(self) -> int:
        """Remove the files behind every mark; returns their size."""
        freed = 0
        for study_id, uid in self._marked_studies():
            with self._database.begin() as connection:
                lock_study(connection, uid)  # a resend waits, and then brings the file back
                removed = _sweep_study(connection, self._store_dir, study_id)
            self._on_removed(uid, removed)
            freed += removed
        with self._database.begin() as connection:
            owed = _owed(connection, quarantine, quarantine.c.pruned_at.is_not(None))
            for row in owed:
                freed += _freed(connection, quarantine, row.id, self._store_dir, [row.path])
        return freed

    def _marked_studies(self) -> list[tuple[int, str]]:
        with self._database.read() as connection:
            owed = [
                select(table.c.study_id).where(
                    table.c.pruned_at.is_not(None), table.c.pruned_bytes.is_(None)
                )
                for table in (instances, jobs)
            ]
            query = select(studies.c.id, studies.c.study_instance_uid).where(
                studies.c.id.in_(owed[0].union(owed[1]))
            )
            return [(row.id, row.study_instance_uid) for row in connection.execute(query)]


def _owed(connection: Connection, table: Any, *conditions: Any) -> list[Row[Any]]:
    query = select(table).where(table.c.pruned_at.is_not(None), table.c.pruned_bytes.is_(None))
    return list(connection.execute(query.where(*conditions).with_for_update()))


def _sweep_study(connection: Connection, store_dir: Path, study_id: int) -> int:
    freed = 0
    for row in _owed(connection, instances, instances.c.study_id == study_id):
        freed += _freed(connection, instances, row.id, store_dir, [row.path])
    for row in _owed(connection, jobs, jobs.c.study_id == study_id):
        files = files_of_job(store_dir, row.id)
        freed += _freed(connection, jobs, row.id, store_dir, files)
        with suppress(OSError):
            (store_dir / "results" / str(row.id)).rmdir()
    return freed


def files_of_job(store_dir: Path, job_id: int) -> list[str]:
    """Everything that scorer and reporter wrote for a job, attempts that led nowhere included."""
    found = [
        *(store_dir / "predictions").glob(f"{job_id}-*"),
        *(store_dir / "results" / str(job_id)).glob("*"),
    ]
    return [file.relative_to(store_dir).as_posix() for file in found]


def _freed(
    connection: Connection, table: Any, row_id: int, store_dir: Path, files: Sequence[str]
) -> int:
    """Remove the files behind a row; one that cannot be removed is left to the next sweep."""
    try:
        size = sum(_remove(stored(store_dir, file)) for file in files)
    except OSError as error:
        _log.error(
            "a file that retention gave up cannot be removed",
            action="file_not_removed",
            table=table.name,
            row=row_id,
            reason=errorcode.get(error.errno or 0, "unknown"),
        )
        return 0
    connection.execute(update(table).where(table.c.id == row_id).values(pruned_bytes=size))
    return size


def _remove(file: Path | None) -> int:
    """Remove one file of the store; returns its size, 0 if it is gone or not ours to remove."""
    if file is None:
        return 0  # a row names a place outside of the store; `fsck` tells of it
    try:
        with waiting_for_the_disk():
            size = file.lstat().st_size
            file.unlink()
    except FileNotFoundError:
        return 0
    return size
