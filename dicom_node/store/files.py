"""The bytes behind the rows: durable writes and content-addressed instances under one folder.

Paths in SQL are relative to the store folder. No name in it comes from the network: instances lie
under their digest, predictions and results under the job's number and our own UIDs.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Final

from dicom_node.errors import Transient

_DISK_ERRORS: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV}
)

ROOMS: Final = ("instances", "predictions", "results", "quarantine")
"""Every folder of the store that rows name files in."""


class StoreUnavailable(Transient):
    """The disk is full, read-only, failing or gone; the same write may succeed later."""


@contextmanager
def waiting_for_the_disk() -> Iterator[None]:
    """Tell what the disk does to everybody from what is wrong with this file or this job.

    Raises
    ------
    StoreUnavailable
        An OSError that another file would have met as well; others go through.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise StoreUnavailable(f"store: {errno.errorcode[error.errno]}") from error


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, each name durable."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        fsync_folder(path.parent)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that is either wholly there or not at all, also after a power loss."""
    make_folder(path.parent)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)  # a full disk must not fill with halves
        raise
    fsync_folder(path.parent)


def stored(store_dir: Path, relative: str) -> Path | None:
    """Return where a stored file lies; None if that is outside of the store's own folders."""
    parts = PurePosixPath(relative).parts
    path = store_dir.joinpath(*parts)
    ours = bool(parts) and parts[0] in ROOMS and ".." not in parts
    return path if ours and path.parent.resolve().is_relative_to(store_dir.resolve()) else None


def instance_path(digest: str) -> str:
    """Relative path of an instance with this digest (lower-case hex SHA-256)."""
    return f"instances/{digest[:2]}/{digest[2:4]}/{digest}.dcm"


def link_durably(source: Path, target: Path) -> None:
    """Give a file a second name that survives a power loss; harmless if done twice.

    The folder is synced even if the name is there: whoever made it may have been killed before it
    was durable. Both names must lie on one file system.
    """
    make_folder(target.parent)
    with suppress(FileExistsError):
        os.link(source, target)
    fsync_folder(target.parent)


def keep_instance(store_dir: Path, source: Path, digest: str) -> str:
    """Give an inbox file its place in the store; the inbox name stays until the row is written.

    Harmless if done twice. Both folders must lie on one file system (a hard link is made).

    Returns
    -------
    str
        Path relative to `store_dir`.
    """
    relative = instance_path(digest)
    link_durably(source, store_dir / relative)
    return relative
