"""The associations that are open at a port, and what came through each."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Protocol

import structlog
from pynetdicom.association import Association

from dicom_node.receive.part10 import Announcement, Peer
from dicom_node.store.inbox import Ending

_POLL_SECONDS = 0.02
_log = structlog.get_logger()


class Sink(Protocol):
    """Where the objects of one association go."""

    def write(self, announced: Announcement, data_set: memoryview) -> None:
        """Keep the object, durable on return; OSError: not kept, the sender shall try again."""

    def close(self, ending: Ending) -> None:
        """The association has ended; nothing more comes."""


@dataclass(slots=True)
class Link:
    """An admitted association and what came through it; its own thread alone changes it."""

    peer: Peer
    sink: Sink | None = None
    stored: int = 0
    refused: int = 0

    def warn_not_kept(self, reason: str) -> None:
        """Log that an object was refused; once an association, or a full disk would fill with its
        own log."""
        if not self.refused:
            _log.warning(
                "object not kept, the sender was told so",
                action="object_not_kept",
                reason=reason,
                calling_ae_title=self.peer.calling_ae_title,
            )

    def close(self, ending: Ending) -> None:
        """Log the end and tell the sink of it."""
        _log.info(
            "association ended",
            action="association_ended",
            ending=ending,
            calling_ae_title=self.peer.calling_ae_title,
            stored=self.stored,
            refused=self.refused,
        )
        if self.sink is None:
            return
        try:
            self.sink.close(ending)
        except OSError as error:
            _log.error(
                "the end of an association could not be recorded",
                action="association_end_not_recorded",
                reason=f"errno {error.errno}",
            )


class Links:
    """The open associations; any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connected: set[Association] = set()
        self._admitted: dict[Association, Link] = {}

    def connect(self, association: Association) -> None:
        """Take an association on, before anybody knows who it is."""
        with self._lock:
            self._connected.add(association)

    def admit(self, association: Association, peer: Peer) -> None:
        """Let objects come through it."""
        with self._lock:
            self._admitted[association] = Link(peer)

    def find(self, association: Association) -> Link | None:
        """The link of an association; None: it was never admitted."""
        with self._lock:
            return self._admitted.get(association)

    def forget(self, association: Association) -> None:
        """Drop an association that has ended."""
        with self._lock:
            self._admitted.pop(association, None)
            self._connected.discard(association)

    def connected(self) -> list[Association]:
        """Every open association, the admitted and the others."""
        with self._lock:
            return list(self._connected)

    def wait_until_ended(self, limit_seconds: float) -> None:
        """Wait until none is open or the time is over."""
        deadline = time.monotonic() + limit_seconds
        while self.connected() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
