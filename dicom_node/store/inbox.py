"""The inbox: what was received and acknowledged, as files, until it is in the store.

One folder per association, named by us; nothing in a path comes from the network:

    inbox/20260131T120000123456Z-4711-1/
        owner                 locked (flock) for as long as the receiver's process holds the folder
        000001.dcm            a Part 10 file, durable before its C-STORE was answered
        000002.part           being written, or left by a crash; never read
        released | aborted    how the association ended; absent while it lasts

A lock dies with its process, on every machine that shares the file system: a folder without an
ending whose lock can be had belongs to nobody, and the next receiver to start marks it `aborted`.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Final, Literal, get_args

from dicom_node.failpoint import failpoint
from dicom_node.store.files import fsync_folder, make_folder, write_durably

Ending = Literal["released", "aborted"]
_ENDINGS: Final[tuple[Ending, ...]] = get_args(Ending)
_OWNER = "owner"
_INBOX_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class AssociationListing:
    """What lies in the folder of one association.

    Attributes
    ----------
    files
        Complete Part 10 files in the order of their arrival.
    ended
        How the association ended; None while it may still bring files. Was read before `files`:
        with an ending, `files` is all there is.
    """

    folder: Path
    files: tuple[Path, ...]
    ended: Ending | None


class AssociationFolder:
    """The folder of one association, held by the process that receives it.

    Safe to use from several threads.
    """

    def __init__(self, path: Path, owner: int) -> None:
        self.path = path
        self._owner = owner
        self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._closed = False

    def write(self, parts: Sequence[bytes | memoryview]) -> Path:
        """Store one file, durable under its final name on return.

        Parameters
        ----------
        parts
            The file's bytes, in order.

        Raises
        ------
        OSError
            Not stored: no space, a failing disk, or the folder is closed already.
        """
        with self._lock:
            if self._closed:
                raise OSError("the association has ended")
            name = f"{next(self._numbers):06d}"
            part, final = self.path / f"{name}.part", self.path / f"{name}.dcm"
            try:
                with part.open("xb") as file:
                    for content in parts:
                        file.write(content)
                    file.flush()
                    failpoint("receive.before_fsync")
                    os.fsync(file.fileno())
                failpoint("receive.after_fsync")
                part.rename(final)
                failpoint("receive.after_rename")
                os.fsync(self._folder)
            except OSError:
                with suppress(OSError):
                    part.unlink(missing_ok=True)
                raise
            return final

    def close(self, ending: Ending) -> None:
        """Record how the association ended and let go of the folder; the first call counts.

        Raises
        ------
        OSError
            The ending could not be recorded; the folder is nobody's until a receiver starts.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                failpoint("receive.before_ending")
                write_durably(self.path / ending, b"")
            finally:
                os.close(self._folder)
                os.close(self._owner)


class Inbox:
    """The receiver's side: makes folders, marks those of dead receivers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count(1)
        make_folder(folder)

    def open_association(self, *, now: datetime) -> AssociationFolder:
        """Make a new, durable folder for an association.

        Parameters
        ----------
        now
            Aware UTC time; becomes part of the folder's name.

        Raises
        ------
        OSError
            The folder cannot be made.
        """
        name = f"{now:%Y%m%dT%H%M%S%f}Z-{os.getpid()}-{next(self._numbers)}"
        path = self._folder / name
        with self._locked():
            path.mkdir()
            owner = _take(path / _OWNER)
            if owner is None:
                raise OSError("another process took the new folder")
        try:
            fsync_folder(self._folder)
            return AssociationFolder(path, owner)
        except OSError:
            os.close(owner)
            raise

    def mark_orphans(self) -> list[Path]:
        """Mark the folders that dead receivers left as `aborted`; returns them.

        Folders of living processes are left alone, however many share the inbox.
        """
        orphans = []
        with self._locked():
            for listing in scan(self._folder):
                if listing.ended is not None:
                    continue
                owner = _take(listing.folder / _OWNER)
                if owner is None:
                    continue
                try:
                    write_durably(listing.folder / "aborted", b"")
                finally:
                    os.close(owner)
                orphans.append(listing.folder)
        return orphans

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep a folder that is being made from being taken for an orphan."""
        descriptor = os.open(self._folder / _INBOX_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def scan(
    inbox_dir: Path,
    *,
    on_unreadable: Callable[[Path, OSError], None] = lambda _folder, _error: None,
) -> list[AssociationListing]:
    """List every association's folder, oldest first; an inbox that does not exist is empty.

    Parameters
    ----------
    on_unreadable
        Called for a folder that cannot be listed; the others are.
    """
    if not inbox_dir.is_dir():
        return []
    listings = []
    for folder in sorted(inbox_dir.iterdir()):
        try:
            if folder.is_dir():
                ended = _ending(folder)
                listings.append(AssociationListing(folder, tuple(_files(folder)), ended))
        except FileNotFoundError:
            continue  # its last file has just been taken and the folder removed
        except OSError as error:
            on_unreadable(folder, error)
    return listings


def _files(folder: Path) -> list[Path]:
    # Not by `glob`, which takes a folder that it may not read for an empty one.
    return sorted(path for path in folder.iterdir() if path.suffix == ".dcm")


def unowned_folders(inbox_dir: Path) -> list[Path]:
    """Folders without an ending whose receiver is dead; the next one to start marks them."""
    found = []
    for listing in scan(inbox_dir):
        if listing.ended is not None:
            continue
        owner = _take(listing.folder / _OWNER)
        if owner is not None:
            os.close(owner)
            found.append(listing.folder)
    return found


def remove_if_done(folder: Path) -> bool:
    """Remove an association's folder if it has ended and holds no file any more.

    Safe to repeat after a crash: the ending is the last thing to go.

    Returns
    -------
    bool
        Whether the folder is gone.
    """
    if _ending(folder) is None or _files(folder):
        return False
    for leftover in (*folder.glob("*.part"), folder / _OWNER):
        leftover.unlink(missing_ok=True)
    for ending in _ENDINGS:
        (folder / ending).unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        folder.rmdir()
    return True


def _ending(folder: Path) -> Ending | None:
    return next((ending for ending in _ENDINGS if (folder / ending).exists()), None)


def _take(path: Path) -> int | None:
    """Lock a file for this process until its descriptor is closed; None: somebody else has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
