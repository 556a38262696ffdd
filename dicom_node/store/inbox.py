"""The inbox: a write-ahead log of received files, one folder an association.

The receiver writes, the assembler reads; neither needs the other or the database. A file counts
once its name ends in `.dcm`: it, its name and its folder's name are then durable. When the
association ends, an empty file `released` or `aborted` says so.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dicom_node.store.files import fsync_folder

Ending = Literal["released", "aborted"]
ENDINGS: tuple[Ending, ...] = ("released", "aborted")
_LOCK = ".receiving"


@dataclass(frozen=True, slots=True)
class AssociationListing:
    """What lies in the inbox of one association.

    Attributes
    ----------
    ended
        How the association ended; None while it may still bring files.
    """

    folder: Path
    files: tuple[Path, ...]
    ended: Ending | None


class AssociationFolder:
    """The writer's side of one association; holds a lock on the folder until closed.

    Parameters
    ----------
    name
        Unique, chosen by us; nothing from the network.

    Raises
    ------
    OSError
        The disk is full or broken.
    """

    def __init__(self, inbox_dir: Path, name: str) -> None:
        self.path = inbox_dir / name
        self.path.mkdir(mode=0o700)
        self._lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fsync_folder(inbox_dir)
        self._count = 0

    def write(self, head: bytes, body: memoryview | bytes) -> Path:
        """Write one Part 10 file durably: data, then its name, before this returns.

        Raises
        ------
        OSError
            Nothing was kept.
        """
        self._count += 1
        path = self.path / f"{self._count:06d}.dcm"
        part = path.with_suffix(".part")
        try:
            with part.open("xb", buffering=0) as file:
                for chunk in (head, body):
                    _write_all(file.write, chunk)
                os.fsync(file.fileno())
            part.rename(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        fsync_folder(self.path)
        return path

    def close(self, ending: Ending) -> None:
        """Say that no more files will come."""
        (self.path / ending).touch()
        fsync_folder(self.path)
        os.close(self._lock)


def _write_all(write: Callable[[memoryview], int | None], data: memoryview | bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[write(rest) or 0 :]


def scan(inbox_dir: Path) -> list[AssociationListing]:
    """List every association's folder, oldest first.

    A folder without an ending whose receiver is dead (nobody holds its lock) counts as aborted.
    """
    listings = []
    for folder in sorted(path for path in inbox_dir.iterdir() if path.is_dir()):
        # The ending is looked at first: files that are there by then are all there will be.
        ended = next((name for name in ENDINGS if (folder / name).exists()), None)
        if ended is None and _is_orphan(folder):
            ended = "aborted"
        listings.append(AssociationListing(folder, tuple(sorted(folder.glob("*.dcm"))), ended))
    return listings


def _is_orphan(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False  # just being made, or being removed
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def remove_if_done(folder: Path) -> None:
    """Remove an ended association's folder if no file is left in it."""
    if any(folder.glob("*.dcm")):
        return
    for leftover in folder.iterdir():
        leftover.unlink()
    folder.rmdir()
