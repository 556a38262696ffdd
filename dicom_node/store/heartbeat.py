"""Keeps a claimed job's lease alive while its worker works."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from dicom_node.errors import Transient
from dicom_node.store.database import Database
from dicom_node.store.jobs import ClaimedJob, LeaseLost, extend_lease

BEATS_PER_LEASE = 3


@contextmanager
def heartbeat(
    database: Database, job: ClaimedJob, *, lease: timedelta, clock: Callable[[], datetime]
) -> Iterator[None]:
    """Extend the lease in a thread until the block ends.

    A beat that fails is not raised: the settling write finds out whether the lease still holds.
    """
    done = threading.Event()

    def beat() -> None:
        while not done.wait(lease.total_seconds() / BEATS_PER_LEASE):
            try:
                with database.begin() as connection:
                    extend_lease(connection, job, lease=lease, now=clock())
            except LeaseLost:
                return
            except Transient:
                continue  # the database may be back before the lease ends

    thread = threading.Thread(target=beat, name=f"heartbeat-{job.id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
