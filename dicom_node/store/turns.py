"""Who of the threads of one process works on a job when: side by side, or one of them alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Turns that may overlap, and turns that overlap with no other.

    A job that lost a worker before runs alone: if it loses another, nothing else is blamed.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = 0
        self._waiting_for_all = 0
        self._is_alone = False

    @contextmanager
    def take(self, *, alone: bool) -> Iterator[None]:
        """Wait for a turn and hold it for the length of the block.

        Who wants to be alone goes before all that come later.
        """
        with self._changed:
            if alone:
                self._waiting_for_all += 1
                self._changed.wait_for(lambda: not self._taken)
                self._waiting_for_all -= 1
            else:
                self._changed.wait_for(lambda: not self._is_alone and not self._waiting_for_all)
            self._taken += 1
            self._is_alone = alone
        try:
            yield
        finally:
            with self._changed:
                self._taken -= 1
                self._is_alone = False
                self._changed.notify_all()
