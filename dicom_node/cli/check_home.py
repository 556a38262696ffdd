"""What `check` looks at on the disk: room, rights, and who else may read the node's files."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dicom_node.cli.verdict import Verdict
from dicom_node.config import NodeConfig

_FEW_FILES: Final = 10_000  # an image needs up to three until its study is done


def disk(settings: NodeConfig) -> Iterator[Verdict]:
    """Whether this user may write where the node writes, and for how long there is room."""
    folder = settings.home
    while not folder.exists():
        folder = folder.parent
    locked = [path for path in (folder, *_folders(settings)) if not os.access(path, os.W_OK)]
    for path in locked:
        yield Verdict(
            "disk", "failed", f"{path} is not writable", "give the node's user write access"
        )
    if locked:
        return
    yield from _owner(settings.home)
    yield from _one_file_system(settings)
    yield _room(folder, settings.dicom.minimum_free_bytes)
    yield from _readers(settings)


def _folders(settings: NodeConfig) -> list[Path]:
    """The folders of a home that are there."""
    named = settings.inbox_dir, settings.store_dir, settings.audit_dir, settings.commitment_dir
    return [folder for folder in (*named, settings.home / "lost+found") if folder.is_dir()]


def _owner(home: Path) -> Iterator[Verdict]:
    """Root may write everywhere, the node's user may not: then this check proves little."""
    if os.geteuid() == 0 and home.exists() and home.stat().st_uid != 0:
        owner = home.stat().st_uid
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = f"#{owner}"
        yield Verdict(
            "disk",
            "warning",
            f"{home} belongs to {name}, and this is root",
            f"check as the node's user: sudo -u {name} dicom-node check ...",
        )


def _one_file_system(settings: NodeConfig) -> Iterator[Verdict]:
    inbox, store = settings.inbox_dir, settings.store_dir
    if inbox.is_dir() and store.is_dir() and inbox.stat().st_dev != store.stat().st_dev:
        yield Verdict(
            "disk",
            "failed",
            f"{inbox} and {store} lie on different file systems",
            "put the whole home on one: images get a second name in the store",
        )


def _room(folder: Path, floor: int) -> Verdict:
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    found = f"{free / 1e9:.1f} GB free, floor {floor / 1e9:.1f} GB"
    if free < floor:
        mend = "free space: images are refused (0xA700) until then"
        return Verdict("disk", "failed", found, mend)
    if disk.f_files and disk.f_favail < _FEW_FILES:
        mend = "remove files: images are refused (0xA700) when no more fit in"
        return Verdict("disk", "warning", f"{disk.f_favail} more files fit in", mend)
    if free < 2 * floor:
        mend = "free space, or set retention: below the floor images are refused (0xA700)"
        return Verdict("disk", "warning", f"nearly full: {found}", mend)
    return Verdict("disk", "ok", found)


def _readers(settings: NodeConfig) -> Iterator[Verdict]:
    """Files of a home that any user of this machine may read."""
    home = settings.home
    if not home.exists() or not home.stat().st_mode & stat.S_IXOTH:
        return
    named = [*_folders(settings), *home.glob("node.db*")]
    open_ones = [path.name for path in named if path.stat().st_mode & stat.S_IRWXO]
    if open_ones:
        found = f"every user of this machine may read {', '.join(sorted(open_ones))} in {home}"
        yield Verdict("disk", "warning", found, f"chmod -R o= {home}")
