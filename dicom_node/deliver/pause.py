"""A pause of pynetdicom's reactor that holds, so that an answer reaches whoever waits for it.

The library's reactor takes messages that nobody asked for; a request pauses it by clearing an
event and looking at a flag. The flag is still set while the reactor leaves its last pause: a
request that comes just then goes on, the reactor takes its answer and drops it, and the request
waits for its whole time-out. Seen on a busy machine, once in a few hundred associations.
"""

from __future__ import annotations

import threading
from typing import Final

from pynetdicom.association import Association

_LOOK_SECONDS: Final = 0.05


class ReactorPause(threading.Event):
    """Stands in for an association's `_reactor_checkpoint`: `clear` returns once it is paused."""

    def __init__(self, association: Association) -> None:
        super().__init__()
        self._association = association
        self._changed = threading.Condition()
        self._paused = False
        self.set()

    def set(self) -> None:
        """Let the reactor go on."""
        with self._changed:
            super().set()
            self._changed.notify_all()

    def clear(self) -> None:
        """Pause the reactor; returns when it stands still or has ended."""
        with self._changed:
            super().clear()
            if threading.current_thread() is self._association:
                return
            while not (self._paused or self.is_set()) and self._association.is_alive():
                self._changed.wait(_LOOK_SECONDS)
        if not self._association.is_alive():
            self._association._is_paused = True

    def wait(self, timeout: float | None = None) -> bool:
        """Called by the reactor: stand still while paused."""
        with self._changed:
            while not self.is_set():
                self._paused = True
                self._changed.notify_all()
                if not self._changed.wait(timeout) and timeout is not None:
                    break
            self._paused = False
            return self.is_set()
