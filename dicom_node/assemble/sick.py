"""What of the inbox cannot be read: tried again after pauses, then moved out of the others' way."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from dicom_node.store.files import fsync_folder, link_durably

FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 60.0
# Failing disks often give a sector at a later attempt: after half a minute it is not expected.
CHANCES: Final = 6
# These tell of the machine or its file system and not of one file: waiting is all that helps.
_OF_THE_MACHINE: Final = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.ESTALE,
        errno.ENODEV,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
    }
)
_log = structlog.get_logger()


@dataclass(slots=True)
class _Trouble:
    failures: int
    until: float


@dataclass(slots=True)
class SickFiles:
    """Which files and folders failed, how often, and when each is due again.

    In memory alone: after a start each gets its chances anew.
    """

    _known: dict[Path, _Trouble] = field(default_factory=dict)

    def rests(self, path: Path, *, now: float) -> bool:
        """Whether a file is left alone for the moment; `now` in seconds that are never set."""
        trouble = self._known.get(path)
        return trouble is not None and now < trouble.until

    def failed(self, path: Path, error: OSError, *, now: float) -> bool:
        """Note and log a failure; whether the file has had all its chances."""
        failures = self._known[path].failures + 1 if path in self._known else 1
        pause = min(FIRST_PAUSE_SECONDS * 2.0 ** (failures - 1), LONGEST_PAUSE_SECONDS)
        self._known[path] = _Trouble(min(failures, CHANCES), now + pause)
        _log.error(
            "not readable in the inbox",
            action="inbox_unreadable",
            association=path.parent.name,
            file=path.name,
            reason=name_of(error),
            failures=failures,
        )
        return failures >= CHANCES and error.errno not in _OF_THE_MACHINE

    def forget(self, path: Path) -> None:
        """It is well, or gone."""
        self._known.pop(path, None)


def name_of(error: OSError) -> str:
    """The error's name, such as EIO."""
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


def name_durably(source: Path, target: Path) -> None:
    """Give a sick file a second name, or move it where it can have but one.

    Raises
    ------
    OSError
        It stays where it was.
    """
    try:
        link_durably(source, target)
    except PermissionError:  # a folder, or a file that may not be changed
        source.rename(target)
        fsync_folder(target.parent)
        fsync_folder(source.parent)
