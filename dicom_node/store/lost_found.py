"""`lost+found` beside the store: where files go that might be the only copy of something."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dicom_node.store.files import fsync_folder, make_folder

LOST_AND_FOUND: Final = "lost+found"


def lost_and_found(store_dir: Path) -> Path:
    """The folder; on the store's file system."""
    return store_dir.parent / LOST_AND_FOUND


def put_aside(store_dir: Path, path: Path) -> str:
    """Move a file of the store there, under the same relative path.

    Returns
    -------
    str
        What was done, for a person.
    """
    folder = lost_and_found(store_dir)
    target = folder / path.relative_to(store_dir)
    make_folder(target.parent)
    number = 0
    free = target
    while free.exists():
        number += 1
        free = target.with_name(f"{target.name}.{number}")
    path.rename(free)
    fsync_folder(free.parent)
    fsync_folder(path.parent)
    return f"moved to {LOST_AND_FOUND}/{free.relative_to(folder)}"
