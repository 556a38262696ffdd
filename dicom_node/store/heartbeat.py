"""Keeps a lease alive while its worker works."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from dicom_node.errors import Transient
from dicom_node.store.jobs import LeaseLost

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
