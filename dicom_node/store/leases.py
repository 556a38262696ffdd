"""Holding work under a lease: claiming it, and keeping the lease alive while a worker works."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from uuid import uuid4

from dicom_node.domain.clock import ClockWatch
from dicom_node.domain.jobs import JobStage
from dicom_node.errors import Transient
from dicom_node.store.database import Connection, Database, DatabaseUnavailable
from dicom_node.store.jobs import (
    ClaimedJob,
    LeaseLost,
    SuspectIsNext,
    claim_job,
    extend_lease,
    release_claim,
    release_job,
)
from dicom_node.store.recovery import return_expired
from dicom_node.store.turns import Turns

BEATS_PER_LEASE = 3
# A stage that found the database away looks again after this long at the latest (loop.py).
LONGEST_SILENCE = timedelta(seconds=10)

Write = Callable[[Connection], None]
"""Writes into a transaction that is open."""


@contextmanager
def heartbeat(extend: Callable[[], None], lease: timedelta) -> Iterator[None]:
    """Call `extend` several times a lease, in a thread, until the block ends.

    A beat that fails is not raised: the settling write finds out whether the lease still holds.

    Parameters
    ----------
    extend
        Pushes the end of the lease; raises `LeaseLost` if it is gone.
    """
    done = threading.Event()

    def beat() -> None:
        while not done.wait(lease.total_seconds() / BEATS_PER_LEASE):
            try:
                extend()
            except LeaseLost:
                return
            except Transient:
                continue  # the database may be back before the lease ends

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class LeasedQueue:
    """One worker's view of the jobs of one stage.

    What fails because the database or the disk is away is not the job's doing: it is settled or
    given back once they are there again, and counts as no attempt.

    Parameters
    ----------
    worker
        Name of this worker among all that share the queue.
    clock, elapsed
        Wall clock (aware) and a clock in seconds that is never set.
    """

    def __init__(
        self,
        database: Database,
        stage: JobStage,
        *,
        worker: str,
        lease: timedelta,
        clock: Callable[[], datetime],
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._stage = stage
        self._worker = worker
        self._lease = lease
        self._clock = clock
        self._elapsed = elapsed
        self._watch = ClockWatch()
        self._watch.jump(clock(), elapsed())
        self._trust_leases_from = elapsed()
        self._owed: Write | None = None
        self._token = ""

    @property
    def unsettled(self) -> str | None:
        """Token of the claim for which a write is still owed; None: nothing is."""
        return None if self._owed is None else self._token

    def return_expired(self, *, max_attempts: int) -> None:
        """Return the jobs of workers that died.

        After an outage of the database or a clock that was set, living workers are first given
        the time to extend their leases.
        """
        now = self._clock()
        if self._watch.jump(now, self._elapsed()):
            self._distrust_leases()
        if self._elapsed() < self._trust_leases_from:
            return
        with self._transaction() as connection:
            return_expired(connection, max_attempts=max_attempts, now=now)

    @contextmanager
    def next_job(self, turns: Turns) -> Iterator[ClaimedJob | None]:
        """Take a turn and the most urgent job that is due, or None, for the length of the block.

        A job that was attempted before is taken only once nobody else of `turns` holds one.
        """
        with ExitStack() as stack:
            stack.enter_context(turns.take(alone=False))
            try:
                job = self.claim(suspects=False)
            except SuspectIsNext:
                stack.close()
                stack.enter_context(turns.take(alone=True))
                job = self.claim()
            yield job

    def claim(self, *, suspects: bool = True) -> ClaimedJob | None:
        """Take the most urgent job that is due, or None; first write what is still owed.

        Raises
        ------
        SuspectIsNext
            As `claim_job` does.
        """
        self._pay()
        self._token = token = str(uuid4())
        try:
            with self._transaction() as connection:
                return claim_job(
                    connection,
                    stages=[self._stage],
                    worker=self._worker,
                    token=token,
                    lease=self._lease,
                    now=self._clock(),
                    suspects=suspects,
                )
        except DatabaseUnavailable:
            self._owed = lambda connection: release_claim(connection, token, now=self._clock())
            raise

    @contextmanager
    def work(self, job: ClaimedJob) -> Iterator[None]:
        """Keep the job's lease alive until the block ends; a `Transient` error gives it back."""

        def extend() -> None:
            with self._transaction() as connection:
                extend_lease(connection, job, lease=self._lease, now=self._clock())

        try:
            with heartbeat(extend, self._lease):
                yield
        except Transient as error:
            reason = str(error)
            with suppress(Transient):  # what stopped the work is the one to tell of
                self.settle(lambda c: release_job(c, job, reason=reason, now=self._clock()))
            raise

    def settle(self, write: Write) -> None:
        """Write what became of a job; kept until the next claim where the database is away.

        Raises
        ------
        DatabaseUnavailable
            Not written yet.
        LeaseLost
            The job is no longer this worker's; nothing was written.
        """
        self._owed = write
        self._pay()

    def _pay(self) -> None:
        if self._owed is None:
            return
        write, self._owed = self._owed, None
        try:
            with self._transaction() as connection:
                write(connection)
        except DatabaseUnavailable:
            self._owed = write
            raise

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._database.begin() as connection:
                yield connection
        except DatabaseUnavailable:
            self._distrust_leases()
            raise

    def _distrust_leases(self) -> None:
        self._trust_leases_from = self._elapsed() + (self._lease + LONGEST_SILENCE).total_seconds()
