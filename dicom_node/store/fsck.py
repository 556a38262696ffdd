"""Compares the database with the files, and mends what can be mended without losing anything.

Safe beside a running node: files younger than `GRACE` and rows that others hold are left alone, and
every repair looks again inside its own transaction. No bytes are deleted that might be the only
copy: they move to `lost+found` beside the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from errno import errorcode
from pathlib import Path
from typing import Any

from sqlalchemy import select

from dicom_node.store.database import Database
from dicom_node.store.lost_found import lost_and_found, put_aside

GRACE = timedelta(hours=1)
"""Younger files may belong to work in progress; older leases have been noticed by somebody."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What is compared.

    Attributes
    ----------
    now
        Aware time.
    max_attempts
        As `scoring.max_attempts`.
    deep
        Whether images are read and their digests compared, too.
    """

    database: Database
    store_dir: Path
    inbox_dir: Path
    commitment_dir: Path
    now: datetime
    max_attempts: int
    deep: bool = False

    @property
    def lost_and_found(self) -> Path:
        """Where files go that no row names; on the store's file system."""
        return lost_and_found(self.store_dir)

    def is_old(self, path: Path) -> bool:
        """Whether a file is beyond the grace of new ones; a file that is gone is not."""
        try:
            return path.lstat().st_mtime < (self.now - GRACE).timestamp()
        except OSError:
            return False

    def is_kept(self, table: Any, row_id: int) -> bool:
        """Whether the bytes behind a row are still to be there: retention may work meanwhile."""
        with self.database.read() as connection:
            query = select(table.c.id).where(table.c.id == row_id, table.c.pruned_at.is_(None))
            return connection.execute(query).first() is not None

    def put_aside(self, path: Path) -> str:
        """Move a file of the store to `lost+found`, under the same relative path."""
        return put_aside(self.store_dir, path)


Repair = Callable[[], str | None]
"""Mends a problem and says what was done; None: it could not."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that database and files do not agree on.

    Attributes
    ----------
    kind
        A word for scripts.
    what
        A sentence for a person.
    path
        The file, relative to the store or the inbox.
    jobs
        Numbers of the jobs that depend on it.
    remedy
        What a person can do, or what `--repair` does.
    repaired
        What was done, or None.
    """

    kind: str
    what: str
    remedy: str
    path: str | None = None
    jobs: tuple[int, ...] = ()
    repaired: str | None = None
    repair: Repair | None = None

    @property
    def needs_person(self) -> bool:
        """Whether no repair is known or it failed."""
        return self.repair is None and self.repaired is None


def outside(path: str, users: tuple[int, ...]) -> Problem:
    """What a row is that names a file outside of the store."""
    what = "a row names a file outside of the store; it is neither read nor removed"
    return Problem("bad_path", what, "correct the row by hand", path, users)


Check = Callable[[Survey], Iterator[Problem]]


def examine(survey: Survey, checks: Iterable[Check], *, repair: bool) -> list[Problem]:
    """Run the checks; with `repair`, mend each problem as it is found."""
    found = []
    for check in checks:
        for problem in check(survey):
            if not repair or problem.repair is None:
                found.append(problem)
                continue
            found.append(_repaired(problem, problem.repair))
    return found


def _repaired(problem: Problem, repair: Repair) -> Problem:
    """One repair that the disk does not let happen must not keep the others from theirs."""
    try:
        return replace(problem, repaired=repair(), repair=None)
    except OSError as error:
        remedy = f"the repair failed ({errorcode.get(error.errno or 0, 'no number')}): mend that"
        return replace(problem, remedy=remedy, repair=None)
