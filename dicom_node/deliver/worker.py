"""The deliver stage: sends what lies in the outbox, each destination on a thread of its own."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

import structlog

from dicom_node.config import NodeConfig
from dicom_node.deliver.dimse import SendOutcome, send_files
from dicom_node.domain.retry import GiveUp, RetryPolicy, decide_retry
from dicom_node.errors import DeliveryRejected, short_uid
from dicom_node.loop import run_loop
from dicom_node.store.database import Database
from dicom_node.store.deliveries import (
    Delivery,
    claim_deliveries,
    due_destinations,
    extend_deliveries,
    settle_delivered,
    settle_parked,
    settle_postponed,
)
from dicom_node.store.leases import heartbeat

# A courier that dies leaves its claims until then; sending an object twice is harmless, since the
# destination gets the same bytes under the same UID.
LEASE = timedelta(seconds=30)
BATCH = 8
_log = structlog.get_logger()


class Courier:
    """Sends every due delivery and settles each by what its destination answered."""

    def __init__(
        self,
        database: Database,
        config: NodeConfig,
        policy: RetryPolicy,
        *,
        worker: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._config = config
        self._policy = policy
        self._worker = worker
        self._clock = clock
        self._busy: dict[str, threading.Thread] = {}

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop` is set; then wait for what is on its way."""
        run_loop("deliver", self._dispatch, stop)
        for thread in self._busy.values():
            thread.join()

    def _dispatch(self) -> bool:
        """Start a thread for each destination that has something due and none at work."""
        with self._database.read() as connection:
            due = due_destinations(connection, now=self._clock())
        self._busy = {name: thread for name, thread in self._busy.items() if thread.is_alive()}
        for name in due:
            if name not in self._busy:
                self._busy[name] = thread = threading.Thread(
                    target=self._drain, args=(name,), name=f"to-{name}"
                )
                thread.start()
        return False

    def _drain(self, destination: str) -> None:
        while self.deliver_batch(destination):
            pass

    def deliver_batch(self, destination: str) -> bool:
        """Send what is due for one destination over one association; False if nothing is."""
        token = str(uuid4())
        with self._database.begin() as connection:
            batch = claim_deliveries(
                connection,
                destination=destination,
                token=token,
                lease=LEASE,
                limit=BATCH,
                now=self._clock(),
            )
        if not batch:
            return False
        peer = self._config.peers.get(destination)
        if peer is None:
            for delivery in batch:
                self._park(delivery, "no such destination is configured any more")
            return True
        by_path = {self._config.store_dir / item.path: item for item in batch}

        def settle(path: Path, outcome: SendOutcome) -> None:
            self._settle(by_path[path], outcome)

        with heartbeat(lambda: self._extend(token), LEASE):
            send_files(peer, self._config.ae_title, list(by_path), settle)
        return True

    def _extend(self, token: str) -> None:
        with self._database.begin() as connection:
            extend_deliveries(connection, token, lease=LEASE, now=self._clock())

    def _settle(self, delivery: Delivery, outcome: SendOutcome) -> None:
        if isinstance(outcome.error, DeliveryRejected):
            self._park(delivery, str(outcome.error))
        elif outcome.error is not None:
            self._postpone(delivery, str(outcome.error))
        else:
            with self._database.begin() as connection:
                settle_delivered(connection, delivery, remark=outcome.remark, now=self._clock())
            self._say("result delivered", "result_delivered", delivery)

    def _postpone(self, delivery: Delivery, error: str) -> None:
        now = self._clock()
        decision = decide_retry(
            self._policy,
            attempts=delivery.attempts,
            first_attempt_at=delivery.first_attempt_at,
            now=now,
            jitter=random.random(),
        )
        if isinstance(decision, GiveUp):
            self._park(delivery, f"{error} ({decision.reason})")
            return
        with self._database.begin() as connection:
            settle_postponed(connection, delivery, error=error, run_after=decision.when)
        self._say("delivery postponed", "delivery_postponed", delivery, error=error)

    def _park(self, delivery: Delivery, error: str) -> None:
        with self._database.begin() as connection:
            settle_parked(connection, delivery, error=error, now=self._clock())
        self._say("delivery parked", "delivery_parked", delivery, error=error)

    def _say(self, event: str, action: str, delivery: Delivery, **more: str) -> None:
        _log.info(
            event,
            action=action,
            job=delivery.job_id,
            destination=delivery.destination,
            instance=short_uid(delivery.sop_instance_uid),
            attempt=delivery.attempts,
            **more,
        )
