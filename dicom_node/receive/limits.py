"""Counts that bound what peers may cost: connections, events a minute, images a second, lines."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Final

_LINES_PER_CAUSE: Final = 5
_LINES: Final = 60
_KEYS: Final = 1000
"""When so many are known, those that wait for nothing are forgotten."""

Clock = Callable[[], float]


class PerMinute:
    """How often something has happened in the current minute of the clock; forgets the others.

    Parameters
    ----------
    clock
        Monotonic seconds.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._minute = -1
        self._counts: Counter[Hashable] = Counter()

    def count(self, key: Hashable) -> int:
        """Note one more; returns how many that makes."""
        with self._lock:
            self._turn()
            self._counts[key] += 1
            return self._counts[key]

    def seen(self, key: Hashable) -> int:
        """How many there have been."""
        with self._lock:
            self._turn()
            return self._counts[key]

    def _turn(self) -> None:
        minute = int(self._clock() // 60)
        if minute != self._minute:
            self._minute = minute
            self._counts.clear()


class Pace:
    """Spaces out what happens for a key: so often a second at most, evenly, never in bursts.

    Parameters
    ----------
    clock
        Monotonic seconds.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at: dict[Hashable, float] = {}

    def wait_for(self, key: Hashable, per_second: float) -> float:
        """Take the next free moment of the key; returns the seconds until then."""
        now = self._clock()
        with self._lock:
            if key not in self._free_at and len(self._free_at) >= _KEYS:
                self._free_at = {other: at for other, at in self._free_at.items() if at > now}
            moment = max(now, self._free_at.get(key, now))
            self._free_at[key] = moment + 1 / per_second
        return moment - now


class Connections:
    """The open connections, bounded in total and per address."""

    def __init__(self, most: int, most_per_address: int) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()

    def enter(self, host: str) -> str | None:
        """Note a new connection; the key of the limit where it is one too many."""
        with self._lock:
            if self._open.total() >= self._most:
                return "dicom.max_connections"
            if self._open[host] >= self._most_per_address:
                return "dicom.max_connections_per_address"
            self._open[host] += 1
            return None

    def leave(self, host: str) -> None:
        """Note the end of a connection that was let in."""
        with self._lock:
            self._open[host] -= 1
            if not self._open[host]:
                del self._open[host]


class SparseLog:
    """Lets a few lines a minute through for each cause, so that a flood does not fill the disk."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._told = PerMinute(clock)
        self._lock = threading.Lock()
        self._kept_back = 0

    def admit(self, *cause: Hashable) -> int | None:
        """None: keep silent. Else how many lines have been kept back since the last one."""
        with self._lock:
            if self._told.seen(cause) >= _LINES_PER_CAUSE or self._told.seen(None) >= _LINES:
                self._kept_back += 1
                return None
            self._told.count(cause)
            self._told.count(None)
            kept_back, self._kept_back = self._kept_back, 0
            return kept_back
