"""What follows from an answer or from its absence: rows in one transaction, then the log."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from dicom_node.domain.clock import LONGEST_WAIT
from dicom_node.domain.commitment import MOST_DENIALS
from dicom_node.domain.retry import GiveUp, RetryPolicy, decide_retry
from dicom_node.errors import short_uid
from dicom_node.store.database import Connection, Database
from dicom_node.store.deliveries import PENDING, Delivery
from dicom_node.store.events import add_event
from dicom_node.store.identity import dispute_over_job
from dicom_node.store.rebuild import build_again, was_built_again
from dicom_node.store.settlements import (
    settle_delivered,
    settle_denied,
    settle_parked,
    settle_postponed,
    settle_sent,
)

_RESTORE = "restore it from a backup, then `jobs retry`"
_log = structlog.get_logger()


@dataclass(slots=True)
class Settling:
    """Deliveries that are settled together.

    Attributes
    ----------
    connection
        The transaction.
    now
        Its time.
    """

    connection: Connection
    now: datetime
    policy: RetryPolicy
    said: list[tuple[str, Delivery, dict[str, Any]]] = field(default_factory=list)

    def delivered(self, delivery: Delivery, *, remark: str | None) -> None:
        """The destination has it, as far as it is configured to say so."""
        settle_delivered(self.connection, delivery, remark=remark, now=self.now)
        self._say("result_delivered", delivery)

    def sent(self, delivery: Delivery, *, remark: str | None, ask_after: timedelta) -> None:
        """The destination took it and is yet to confirm it."""
        settle_sent(
            self.connection, delivery, remark=remark, now=self.now, run_after=self.now + ask_after
        )
        self._say("result_sent", delivery)

    def waiting(self, delivery: Delivery, *, reason: str, ask_after: timedelta) -> None:
        """The destination has been asked and is yet to answer."""
        settle_postponed(self.connection, delivery, error=reason, run_after=self.now + ask_after)
        self._say("confirmation_requested", delivery)

    def denied(self, delivery: Delivery, error: str) -> None:
        """The destination does not have what it took: send it again, a few times.

        Not if another patient's image has come to the study meanwhile.
        """
        denials = delivery.denials + 1
        when = self._retry(delivery, denials)
        dispute = dispute_over_job(self.connection, delivery.job_id)
        if dispute is not None:
            self.parked(delivery, f"{error}; not sent again: {dispute}")
        elif isinstance(when, GiveUp):
            self.parked(delivery, f"{error} ({when.reason})")
        elif denials >= MOST_DENIALS:
            self.parked(delivery, f"{error} (it took the object {denials} times and has it not)")
        else:
            settle_denied(self.connection, delivery, error=error, now=self.now, run_after=when)
            self._say("delivery_denied", delivery, error=error)

    def postponed(self, delivery: Delivery, error: str, *, wait: timedelta | None = None) -> None:
        """Not sent, or not confirmed: try that again later, not before `wait` is over."""
        attempts = delivery.attempts if delivery.state == PENDING else delivery.asked
        when = self._retry(delivery, max(1, attempts))
        if isinstance(when, GiveUp):
            self.parked(delivery, f"{error} ({when.reason})")
        else:
            when = max(when, self.now + min(wait or timedelta(0), LONGEST_WAIT))
            settle_postponed(self.connection, delivery, error=error, run_after=when)
            self._say("delivery_postponed", delivery, error=error)

    def parked(self, delivery: Delivery, error: str) -> None:
        """Only a person can help."""
        settle_parked(self.connection, delivery, error=error, now=self.now)
        self._say("delivery_parked", delivery, error=error)

    def damaged(self, delivery: Delivery, damage: str, *, store_dir: Path) -> bool:
        """Its bytes must not be sent; whether its job builds them again.

        That is done once a job, and only if nobody was ever sent any of its results.
        """
        add_event(
            self.connection,
            at=self.now,
            action="result_damaged",
            job_id=delivery.job_id,
            detail=f"{delivery.destination}: {damage}",
        )
        again = not was_built_again(self.connection, delivery.job_id) and build_again(
            self.connection,
            delivery.job_id,
            store_dir=store_dir,
            now=self.now,
            claimed=delivery.token,
        )
        if not again:
            self.parked(delivery, f"not sent: {damage}; {_RESTORE}")
        return again

    def is_overdue(self, delivery: Delivery) -> bool:
        """Whether its age is beyond what the policy waits for."""
        return self.now - delivery.first_attempt_at >= self.policy.give_up_after

    def _retry(self, delivery: Delivery, attempts: int) -> datetime | GiveUp:
        decision = decide_retry(
            self.policy,
            attempts=attempts,
            first_attempt_at=delivery.first_attempt_at,
            now=self.now,
            jitter=random.random(),
        )
        return decision if isinstance(decision, GiveUp) else decision.when

    def _say(self, action: str, delivery: Delivery, **more: Any) -> None:
        self.said.append((action, delivery, more))


class Settler:
    """Opens transactions in which deliveries are settled."""

    def __init__(
        self, database: Database, policy: RetryPolicy, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._policy = policy
        self._clock = clock

    @contextmanager
    def begin(self) -> Iterator[Settling]:
        """Settle in one transaction; what is logged has been committed."""
        with self._database.begin() as connection:
            settling = Settling(connection, self._clock(), self._policy)
            yield settling
        for action, delivery, more in settling.said:
            _log.info(
                action.replace("_", " "),
                action=action,
                job=delivery.job_id,
                destination=delivery.destination,
                instance=short_uid(delivery.sop_instance_uid),
                attempt=delivery.attempts,
                **more,
            )
