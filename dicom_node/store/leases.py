"""Holding work under a lease: claiming it, and keeping the lease alive while a worker works."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from uuid import uuid4

from dicom_node.domain.jobs import JobStage
from dicom_node.errors import Transient
from dicom_node.store.database import Database
from dicom_node.store.jobs import ClaimedJob, LeaseLost, claim_job, extend_lease

BEATS_PER_LEASE = 3


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

    Parameters
    ----------
    worker
        Name of this worker among all that share the queue.
    """

    def __init__(
        self,
        database: Database,
        stage: JobStage,
        *,
        worker: str,
        lease: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._stage = stage
        self._worker = worker
        self._lease = lease
        self._clock = clock

    def claim(self) -> ClaimedJob | None:
        """Take the most urgent job that is due, or None."""
        with self._database.begin() as connection:
            return claim_job(
                connection,
                stages=[self._stage],
                worker=self._worker,
                token=str(uuid4()),
                lease=self._lease,
                now=self._clock(),
            )

    def hold(self, job: ClaimedJob) -> AbstractContextManager[None]:
        """Keep the job's lease alive until the block ends."""

        def extend() -> None:
            with self._database.begin() as connection:
                extend_lease(connection, job, lease=self._lease, now=self._clock())

        return heartbeat(extend, self._lease)
