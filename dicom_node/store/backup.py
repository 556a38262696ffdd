"""A copy of everything that a node remembers, taken while it runs.

The order makes the copy whole: what was received and is not recorded yet first, then the database,
then the files that its rows name. An image that moves on meanwhile is copied twice or where it has
gone to; one that is acknowledged before the copy begins is in it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import make_url

from dicom_node.errors import ConfigError, Transient

SQLITE_COPY: Final = "node.db"
POSTGRESQL_COPY: Final = "node.pgdump"
BEFORE_DATABASE: Final = ("inbox", "commitment")
AFTER_DATABASE: Final = ("store", "lost+found", "audit")

_PAGES = 1000
_FILE_MODE: Final = 0o600
_UNFINISHED = ".part"


@dataclass(slots=True)
class Copied:
    """What was copied, without what the target held already."""

    files: int = 0
    bytes: int = 0


def back_up(home: Path, database_url: str, target: Path) -> Copied:
    """Copy a home and its database to a folder; what an earlier backup left there is brought up.

    Raises
    ------
    ConfigError
        PostgreSQL without `pg_dump` on this machine.
    Transient
        The database did not answer.
    OSError
        A file cannot be read or written.
    """
    copied = Copied()
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in BEFORE_DATABASE:
        shutil.rmtree(target / name, ignore_errors=True)  # of the last time: long recorded
        _copy_tree(home / name, target / name, copied)
    _copy_database(database_url, target)
    for name in AFTER_DATABASE:
        _copy_tree(home / name, target / name, copied)
    for file in home.glob("*.yaml"):
        _copy_file(file, target / file.name, copied)
    os.sync()
    return copied


def _copy_tree(source: Path, target: Path, copied: Copied) -> None:
    for path in _files(source):
        _copy_file(path, target / path.relative_to(source), copied)


def _files(folder: Path) -> Iterator[Path]:
    """Files that are whole, the audit trail's records after the marks that point into them."""
    for root, _, names in os.walk(folder):
        for name in sorted(names, key=lambda name: (name.endswith(".jsonl"), name)):
            if not name.endswith(_UNFINISHED):
                yield Path(root) / name


def _copy_file(source: Path, target: Path, copied: Copied) -> None:
    try:
        size = source.stat().st_size
        # Stored data sets and results are written once: the same name and size are the same bytes.
        if target.suffix in {".dcm", ".png", ".npz"} and _size_of(target) == size:
            return
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = target.with_name(target.name + _UNFINISHED)
        shutil.copy2(source, part)
        part.chmod(_FILE_MODE)  # whatever it was: a backup is read as root or by the node's user
        part.replace(target)
    except FileNotFoundError:
        if source.exists():
            raise
        return  # it moved on meanwhile, or was pruned
    copied.files += 1
    copied.bytes += size


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _copy_database(url: str, target: Path) -> None:
    parsed = make_url(url)
    if parsed.drivername == "sqlite":
        assert parsed.database is not None, "open_database refuses others"
        _copy_sqlite(Path(parsed.database), target / SQLITE_COPY)
    else:
        _dump_postgresql(url, target / POSTGRESQL_COPY)


def _copy_sqlite(source: Path, target: Path) -> None:
    part = target.with_name(target.name + _UNFINISHED)
    part.unlink(missing_ok=True)
    try:
        with (
            closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as live,
            closing(sqlite3.connect(part)) as copy,
        ):
            live.backup(copy, pages=_PAGES, sleep=0.01)
            (verdict,) = copy.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.Error as error:
        raise Transient(f"database: {type(error).__name__}") from error
    if verdict != "ok":
        raise Transient("the copy of the database is damaged, so its source may be: see operations")
    part.replace(target)


def _dump_postgresql(url: str, target: Path) -> None:
    parsed = make_url(url)
    program = shutil.which("pg_dump")
    if program is None:
        raise ConfigError("pg_dump is not installed here; it comes with PostgreSQL's client")
    part = target.with_name(target.name + _UNFINISHED)
    # The password goes by environment: everybody on the machine can read a command line.
    environment = os.environ | {"PGPASSWORD": parsed.password or ""}
    plain = parsed.set(drivername="postgresql", password=None).render_as_string()
    command = [program, "--format=custom", f"--file={part}", f"--dbname={plain}"]
    ended = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    if ended.returncode != 0:
        said = [line.removeprefix("pg_dump: ") for line in ended.stderr.strip().splitlines()[-3:]]
        raise Transient(f"pg_dump: {'; '.join(said) or 'failed'}")
    part.replace(target)
