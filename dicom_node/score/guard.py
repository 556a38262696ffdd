"""Ends this process when one job takes too long or too much memory; its supervisor starts another.

Nothing inside a decoder or a network can be interrupted from Python: a worker is given up for a
job, with the evidence in the job's attempt, and the rest of the queue goes on. What holds the
interpreter's lock for ever is ended by the kernel's timer instead (SIGALRM).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from dicom_node.errors import Transient
from dicom_node.process import memory_of
from dicom_node.store.jobs import ClaimedJob

EXIT_STATUS = 71
POLL_SECONDS = 0.1
RECORD_SECONDS = 10.0
"""A database that is away must not keep a process alive that is out of control."""
STUCK_SECONDS = 15.0
"""After the time limit the watching thread gets so long to act before the kernel's timer does."""
MEMORY_SHARE = 0.75
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_OOM_SCORE_ADJUSTMENT = 500

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What one job may take.

    Attributes
    ----------
    seconds
        Wall time.
    memory_bytes
        Resident memory of the process, its models included.
    """

    seconds: float
    memory_bytes: int


def memory_limit(configured: int) -> int:
    """Return the limit in bytes; 0 stands for a share of what container or machine has."""
    return configured or int(_machine_memory() * MEMORY_SHARE)


def _machine_memory() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # no such file, or "max"
            return min(memory, int(path.read_text(encoding="ascii")))
    return memory


def volunteer_for_the_oom_killer() -> None:
    """If the machine runs out of memory, let the kernel take this process, not the receiver."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE_ADJUSTMENT), encoding="ascii")


class JobGuard:
    """Watches one job after the other.

    Parameters
    ----------
    condemn
        Records (job, how it ended, most memory in bytes) before the process ends.
    memory
        Tells the resident memory in bytes, or None where the system does not.
    end
        Ends the process at once with a status.
    """

    def __init__(
        self,
        limits: JobLimits,
        condemn: Callable[[ClaimedJob, str, int | None], None],
        *,
        memory: Callable[[], int | None] = memory_of,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._limits = limits
        self._condemn = condemn
        self._memory = memory
        self._end = end

    @contextmanager
    def watch(self, job: ClaimedJob) -> Iterator[None]:
        """Hold the job to its limits until the block ends."""
        done = threading.Event()
        thread = threading.Thread(target=self._watch, args=(job, done), name="guard", daemon=True)
        # Its default action kills without Python's doing; whoever had the timer gets it back.
        before = signal.setitimer(signal.ITIMER_REAL, self._limits.seconds + STUCK_SECONDS)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            signal.setitimer(signal.ITIMER_REAL, *before)

    def _watch(self, job: ClaimedJob, done: threading.Event) -> None:
        started, peak = time.monotonic(), 0
        while not done.wait(POLL_SECONDS):
            memory = self._memory() or 0
            peak = max(peak, memory)
            seconds = time.monotonic() - started
            if memory > self._limits.memory_bytes:
                limit = f"memory limit of {self._limits.memory_bytes} bytes"
                self._give_up(job, f"{limit} (scoring.job_memory_bytes) exceeded", peak)
                return
            if seconds > self._limits.seconds:
                limit = f"time limit of {self._limits.seconds:g} s"
                self._give_up(job, f"{limit} (scoring.job_timeout) exceeded", peak)
                return

    def _give_up(self, job: ClaimedJob, how: str, peak: int) -> None:
        _log.error(
            "scorer ends itself", action="scorer_ended", job=job.id, reason=how, peak_memory=peak
        )
        record = threading.Thread(target=self._record, args=(job, how, peak or None), daemon=True)
        record.start()
        record.join(RECORD_SECONDS)
        self._end(EXIT_STATUS)

    def _record(self, job: ClaimedJob, how: str, peak: int | None) -> None:
        with suppress(Transient):  # the lease ends by itself, and the exit status tells the rest
            self._condemn(job, how, peak)
