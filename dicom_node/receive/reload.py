"""Settings that live in files of their own and may change while the node runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from dicom_node.errors import ConfigError

_log = structlog.get_logger()
T = TypeVar("T")
_State = tuple[int, int, int, int]


class Reloaded(Generic[T]):
    """A value read from files, read again when one of them changes; a bad change is not taken.

    Parameters
    ----------
    what
        The setting, for logs.
    load
        Reads the files; `ConfigError` where they are wrong, which the constructor passes on.
    """

    def __init__(self, what: str, files: Sequence[Path], load: Callable[[], T]) -> None:
        self._what = what
        self._files = tuple(files)
        self._load = load
        self._lock = threading.Lock()
        self._state = self._look()
        self._value = load()

    def get(self) -> T:
        """The value of the files as they are now or, if they are wrong now, as they last were."""
        with self._lock:
            state = self._look()
            if state != self._state:
                self._state = state
                self._read_again()
            return self._value

    def _look(self) -> tuple[_State | None, ...]:
        return tuple(_state_of(file) for file in self._files)

    def _read_again(self) -> None:
        try:
            self._value = self._load()
        except ConfigError as error:
            _log.error(
                "a changed file is not usable: what was read before stays in force",
                action="reload_failed",
                setting=self._what,
                error=str(error),
            )
        else:
            _log.info("read again after a change", action="reloaded", setting=self._what)


def _state_of(file: Path) -> _State | None:
    try:
        found = file.stat()
    except OSError:
        return None
    # The time of the status, too: it tells that a file which could not be read now may be.
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
