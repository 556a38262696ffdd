"""Two clocks of one machine: the wall clock, which may be set, and one that only goes on."""

from __future__ import annotations

from datetime import datetime, timedelta

from tests.builders import NOW


class Clocks:
    """Time that passes only when a test says so."""

    def __init__(self, now: datetime = NOW) -> None:
        self._now = now
        self._elapsed = 100.0

    def now(self) -> datetime:
        return self._now

    def elapsed(self) -> float:
        return self._elapsed

    def tick(self, seconds: float) -> None:
        """Let time pass."""
        self._elapsed += seconds
        self._now += timedelta(seconds=seconds)

    def set(self, by: timedelta) -> None:
        """Set the wall clock."""
        self._now += by
