"""Wall clocks are set: by a time server, an administrator, a machine that wakes up.

What lies in the future by more than anybody ever waits was written before the clock was set back;
what a process does next to such a moment (`ClockWatch`) waits until the others have noticed, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

LONGEST_LEASE: Final = timedelta(minutes=10)
"""No lease is longer (configuration refuses it): one that ends later is from another time."""

LONGEST_WAIT: Final = timedelta(minutes=30)
"""No back-off is longer (configuration refuses it): what waits longer is from another time."""

TOLERANCE: Final = timedelta(seconds=5)
"""Differences of two clocks below this are drift and load, not a clock that was set."""


@dataclass(slots=True)
class ClockWatch:
    """Notices that the wall clock was set, by a clock that never is."""

    offset: timedelta | None = None

    def jump(self, now: datetime, elapsed: float) -> timedelta:
        """Say how far the wall clock was set since the last call: forward is positive.

        Parameters
        ----------
        now
            Aware time by the wall clock.
        elapsed
            Seconds by a monotonic clock (`time.monotonic`).

        Returns
        -------
        timedelta
            Zero at the first call and below `TOLERANCE`.
        """
        offset = now - datetime.fromtimestamp(0, now.tzinfo) - timedelta(seconds=elapsed)
        moved = offset - self.offset if self.offset is not None else timedelta(0)
        if self.offset is not None and abs(moved) < TOLERANCE:
            return timedelta(0)
        self.offset = offset
        return moved
