"""Watches one association of ours: nobody waits for a peer or a thread that is gone.

pynetdicom runs two threads an association: one for its state machine and one that waits for
requests. If either ends before its time, callers wait for it without limit. Like `association`,
this reaches into the pinned pynetdicom.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Final

import structlog
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_P_ABORT

LOOK_SECONDS: Final = 0.05
# Who ends an association may say so a moment after a thread of it has ended.
_SUSPICIOUS_LOOKS: Final = 4
# States (PS3.8 section 9.2.1) without a connection, or waiting for its end.
_AT_REST: Final = frozenset({"Sta1", "Sta13"})
_log = structlog.get_logger()


class AssociationWatch:
    """Looks at an association several times a second, until it is done with.

    Parameters
    ----------
    association
        Just made; no thread of it runs yet.
    destination
        Its name for the log.
    """

    def __init__(self, association: Association, destination: str) -> None:
        self._association = association
        self._destination = destination
        self._connection_lost = threading.Event()
        self._done = threading.Event()
        self._broken = False
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, name="association-watch", daemon=True).start()

    def connection_lost(self) -> None:
        """Keep telling whoever waits for an answer that the connection is gone.

        The library tells it once, and where its reactor takes that, a request begun in the same
        moment waits for its whole time-out.
        """
        self._connection_lost.set()

    def done(self) -> None:
        """End the watch, once the association was released, aborted or given up."""
        gone = self._thread_that_is_gone()
        if gone and self._died_before_its_time():
            self._tell(gone)
        self._done.set()

    def _watch(self) -> None:
        suspicious = 0
        while not self._done.wait(LOOK_SECONDS):
            gone = self._thread_that_is_gone()
            suspicious = suspicious + 1 if gone and self._died_before_its_time() else 0
            if gone and suspicious >= _SUSPICIOUS_LOOKS:
                self._tell(gone)
            if self._broken:
                self._abandon()
            if self._broken or (gone and not suspicious) or self._connection_lost.is_set():
                self._wake()

    def _tell(self, gone: str) -> None:
        with self._lock:
            told, self._broken = self._broken, True
        if not told:
            _log.error(
                "association abandoned: a thread of it died",
                action="association_broken",
                destination=self._destination,
                thread=gone,
            )

    def _thread_that_is_gone(self) -> str | None:
        association = self._association
        threads = {"state machine": association.dul, "reactor": association}
        for name, thread in threads.items():
            if thread.ident is not None and not thread.is_alive():
                return name
        return None

    def _died_before_its_time(self) -> bool:
        """Whether it was no release, rejection or abort: these say so before the thread ends."""
        association = self._association
        told = association.is_released or association.is_rejected or association.is_aborted
        at_rest = association.dul.is_alive() or (
            association.dul.state_machine.current_state in _AT_REST
        )
        return association.is_established or not (told and at_rest)

    def _abandon(self) -> None:
        """Let nobody begin anything more on the association, and end what is left of it."""
        association = self._association
        association.is_aborted = True
        association.is_established = False
        association._kill = True
        association.dul.kill_dul()
        # Whoever sends waits, without limit, for a reactor that pauses.
        association._is_paused = True
        association._reactor_checkpoint.set()
        wrapper = association.dul.socket
        if wrapper is not None:
            wrapper._ready.set()
            with suppress(AttributeError):  # another thread is closing it
                wrapper._shutdown_socket()

    def _wake(self) -> None:
        association = self._association
        if association.dimse.msg_queue.empty():
            association.dimse.msg_queue.put((None, None))
        if not association.dul.is_alive() and association.dul.to_user_queue.empty():
            association.dul.to_user_queue.put(A_P_ABORT())
