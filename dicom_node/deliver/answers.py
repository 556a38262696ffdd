"""Answers to senders that ask us for storage commitment (we are the SCP, PS3.4 J.3)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from dicom_node.config import NodeConfig
from dicom_node.config_destinations import DestinationConfig
from dicom_node.deliver.commitment import answer_sender
from dicom_node.domain.commitment import Reference
from dicom_node.domain.retry import GiveUp, RetryPolicy, decide_retry
from dicom_node.errors import DeliveryRejected, DestinationUnavailable, short_uid
from dicom_node.store.commitment_box import AnswerState, CommitmentBox
from dicom_node.store.commitments import (
    OwedAnswer,
    add_request,
    claim_answer,
    judge_request,
    owed_answers,
    settle_answer,
)
from dicom_node.store.database import Database
from dicom_node.store.inbox import scan

# So long the receiver has for answering on the association of the request.
GRACE = timedelta(seconds=5)
# An answer that a courier or receiver took and did not settle is anybody's after this time.
LEASE = timedelta(seconds=60)
_log = structlog.get_logger()


class Answers:
    """Judges requests by what is durable here, and sees to it that their senders hear the answer.

    Parameters
    ----------
    clock
        Aware time.
    """

    def __init__(
        self,
        database: Database,
        config: NodeConfig,
        policy: RetryPolicy,
        box: CommitmentBox,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._config = config
        self._policy = policy
        self._box = box
        self._clock = clock
        self._senders = {
            peer.ae_title.strip(): peer
            for peer in config.peers.values()
            if isinstance(peer, DestinationConfig)
        }

    def take_requests(self) -> None:
        """Judge what senders ask for, and lay out the answers."""
        for received in self._box.requests():
            in_inbox = list(_inbox_references(self._config.inbox_dir))
            with self._database.begin() as connection:
                answer = judge_request(
                    connection,
                    received.request,
                    store_dir=self._config.store_dir,
                    in_inbox=in_inbox,
                )
                owed = add_request(connection, received, answer, run_after=self._clock() + GRACE)
            if owed and self._box.answer_state(received.name) is AnswerState.ABSENT:
                self._box.put_answer(received.name, answer)
            self._box.remove(received.path)
            _log.info(
                "storage commitment judged",
                action="commitment_judged",
                calling_ae_title=received.calling_ae_title,
                transaction=short_uid(answer.transaction_uid),
                committed=len(answer.committed),
                failed=len(answer.failed),
            )

    def due_senders(self) -> list[str]:
        """AE titles that have an answer coming."""
        with self._database.read() as connection:
            owed = owed_answers(connection, now=self._clock())
        return list(dict.fromkeys(item.calling_ae_title for item in owed))

    def answer(self, calling_ae_title: str) -> None:
        """Send one sender the answers that are due."""
        with self._database.read() as connection:
            owed = owed_answers(connection, now=self._clock())
        for item in owed:
            if item.calling_ae_title == calling_ae_title:
                self._answer(item)

    def _answer(self, owed: OwedAnswer) -> None:
        with self._database.begin() as connection:
            if not claim_answer(connection, owed, now=self._clock(), lease=LEASE):
                return
        state = self._box.answer_state(owed.name)
        if state is AnswerState.SENT:
            self._settle(owed)
            return
        if state is AnswerState.HELD:
            if owed.attempts == 0:
                return  # the receiver is at it; if it dies, its hold ends with our lease
            self._box.let_go(owed.name)
        report = self._box.hold_answer(owed.name)
        if report is None:
            self._postpone(owed, "its answer has not been laid out yet")
            return
        sender = self._senders.get(owed.calling_ae_title)
        try:
            answer_sender(_known(sender, owed), self._config.ae_title, report)
        except DestinationUnavailable as error:
            self._box.let_go(owed.name)
            self._postpone(owed, str(error))
        except DeliveryRejected as error:
            self._give_up(owed, str(error))
        else:
            self._settle(owed)

    def _settle(self, owed: OwedAnswer) -> None:
        with self._database.begin() as connection:
            settle_answer(connection, owed, now=self._clock())
        self._box.forget_answer(owed.name)
        self._say("commitment_answered", owed)

    def _postpone(self, owed: OwedAnswer, error: str) -> None:
        now = self._clock()
        decision = decide_retry(
            self._policy,
            attempts=owed.attempts + 1,
            first_attempt_at=owed.received_at,
            now=now,
            jitter=random.random(),
        )
        if isinstance(decision, GiveUp):
            self._give_up(owed, f"{error} ({decision.reason})")
            return
        with self._database.begin() as connection:
            settle_answer(connection, owed, now=now, error=error, run_after=decision.when)
        self._say("commitment_answer_postponed", owed, error)

    def _give_up(self, owed: OwedAnswer, error: str) -> None:
        with self._database.begin() as connection:
            settle_answer(connection, owed, now=self._clock(), error=error)
        self._box.forget_answer(owed.name)
        self._say("commitment_answer_given_up", owed, error)

    def _say(self, action: str, owed: OwedAnswer, error: str | None = None) -> None:
        _log.info(
            action.replace("_", " "),
            action=action,
            calling_ae_title=owed.calling_ae_title,
            transaction=short_uid(owed.transaction_uid),
            attempt=owed.attempts + 1,
            **({"error": error} if error else {}),
        )


def _known(sender: DestinationConfig | None, owed: OwedAnswer) -> DestinationConfig:
    if sender is None:
        raise DestinationUnavailable(
            f"no destination has the AE title {owed.calling_ae_title}: "
            "add one, so that the sender can be called"
        )
    return sender


def _inbox_references(inbox_dir: Path) -> Iterator[Reference]:
    """What lies in the inbox, by its own headers; what is just taken away is passed over."""
    for listing in scan(inbox_dir):
        for file in listing.files:
            try:
                meta = read_file_meta_info(file)
            except (OSError, InvalidDicomError):
                continue
            yield Reference(
                str(meta.get("MediaStorageSOPClassUID", "")),
                str(meta.get("MediaStorageSOPInstanceUID", "")),
            )
