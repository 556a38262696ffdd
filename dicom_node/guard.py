"""Ends this process when a job takes too long or too much memory; its supervisor starts another.

Nothing inside a decoder, a network or a builder of results can be interrupted from Python: a worker
is given up for a job, with the evidence in the job's attempt, and the rest of the queue goes on.
What holds the interpreter's lock for ever is ended by the kernel's timer instead (SIGALRM).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog

from dicom_node.config import ScoringConfig
from dicom_node.errors import Transient
from dicom_node.process import memory_of
from dicom_node.store.database import Database
from dicom_node.store.evidence import condemn
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

Condemn = Callable[[Sequence[ClaimedJob], str, int | None], None]
"""Records (jobs to blame, how it ended, most memory in bytes) before the process ends."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What one job may take in one stage.

    Attributes
    ----------
    seconds
        Wall time.
    memory_bytes
        Resident memory of the process, its models included.
    """

    seconds: float
    memory_bytes: int


def job_limits(scoring: ScoringConfig) -> JobLimits:
    """The limits of the configuration."""
    return JobLimits(scoring.job_timeout.total_seconds(), memory_limit(scoring.job_memory_bytes))


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


def condemn_in(database: Database, worker: str, clock: Callable[[], datetime]) -> Condemn:
    """Make the function that records in SQL that this worker ends itself."""

    def record(blamed: Sequence[ClaimedJob], how: str, peak_memory_bytes: int | None) -> None:
        with database.begin() as connection:
            condemn(
                connection,
                blamed,
                worker=worker,
                how=how,
                peak_memory_bytes=peak_memory_bytes,
                now=clock(),
            )

    return record


class JobGuard:
    """Watches every job of this process, of whatever stage.

    Time is a job's own. Memory is the process's: where several jobs are watched, each of them is
    blamed, and since a job that was blamed runs alone, only the greedy one is blamed again.

    Parameters
    ----------
    memory
        Tells the resident memory in bytes, or None where the system does not.
    end
        Ends the process at once with a status.
    """

    def __init__(
        self,
        limits: JobLimits,
        condemn: Condemn,
        *,
        memory: Callable[[], int | None] = memory_of,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._limits = limits
        self._condemn = condemn
        self._memory = memory
        self._end = end
        self._lock = threading.Lock()
        self._watched: dict[str, tuple[ClaimedJob, float]] = {}  # by token; when the timer ends it
        self._timer_before = (0.0, 0.0)
        self._ending = threading.Lock()

    @contextmanager
    def watch(self, job: ClaimedJob) -> Iterator[None]:
        """Hold the job to its limits until the block ends."""
        done = threading.Event()
        thread = threading.Thread(target=self._watch, args=(job, done), name="guard", daemon=True)
        self._enter(job)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self._leave(job)

    def _enter(self, job: ClaimedJob) -> None:
        with self._lock:
            if not self._watched:
                self._timer_before = signal.getitimer(signal.ITIMER_REAL)
            stuck_at = time.monotonic() + self._limits.seconds + STUCK_SECONDS
            self._watched[job.token] = (job, stuck_at)
            self._set_timer()

    def _leave(self, job: ClaimedJob) -> None:
        with self._lock:
            del self._watched[job.token]
            if self._watched:
                self._set_timer()
            else:  # whoever had the timer gets it back
                signal.setitimer(signal.ITIMER_REAL, *self._timer_before)

    def _set_timer(self) -> None:
        """The process has one timer: it is for the job whose time ends first.

        Its default action kills without Python's doing.
        """
        first = min(stuck_at for _, stuck_at in self._watched.values())
        signal.setitimer(signal.ITIMER_REAL, max(first - time.monotonic(), 1e-3))

    def _watch(self, job: ClaimedJob, done: threading.Event) -> None:
        started, peak = time.monotonic(), 0
        while not done.wait(POLL_SECONDS):
            memory = self._memory() or 0
            peak = max(peak, memory)
            seconds = time.monotonic() - started
            if memory > self._limits.memory_bytes:
                limit = f"memory limit of {self._limits.memory_bytes} bytes"
                with self._lock:
                    blamed = [watched for watched, _ in self._watched.values()]
                self._give_up(blamed, f"{limit} (scoring.job_memory_bytes) exceeded", peak)
                return
            if seconds > self._limits.seconds:
                limit = f"time limit of {self._limits.seconds:g} s"
                self._give_up([job], f"{limit} (scoring.job_timeout) exceeded", peak)
                return

    def _give_up(self, blamed: Sequence[ClaimedJob], how: str, peak: int) -> None:
        self._ending.acquire()  # for good: one reason is enough
        if len(blamed) > 1:
            how += " by one of jobs " + ", ".join(str(job.id) for job in blamed)
        _log.error(
            "scorer ends itself",
            action="scorer_ended",
            jobs=[job.id for job in blamed],
            stages=[job.stage.value for job in blamed],
            reason=how,
            peak_memory=peak,
        )
        record = threading.Thread(
            target=self._record, args=(blamed, how, peak or None), daemon=True
        )
        record.start()
        record.join(RECORD_SECONDS)
        self._end(EXIT_STATUS)

    def _record(self, blamed: Sequence[ClaimedJob], how: str, peak: int | None) -> None:
        with suppress(Transient):  # the lease ends by itself, and the exit status tells the rest
            self._condemn(blamed, how, peak)
