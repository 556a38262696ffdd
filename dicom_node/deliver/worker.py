"""The deliver stage: sends what lies in the outbox, each destination on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import structlog

from dicom_node.config import NodeConfig
from dicom_node.config_destinations import Destination, DestinationConfig, DicomwebConfig
from dicom_node.deliver.answers import Answers
from dicom_node.deliver.confirm import Confirmer
from dicom_node.deliver.dimse import SendOutcome, send_files
from dicom_node.deliver.intact import leave_out_damaged
from dicom_node.deliver.settle import Settler
from dicom_node.deliver.stow import store_files
from dicom_node.domain.clock import LONGEST_WAIT
from dicom_node.domain.retry import RetryPolicy
from dicom_node.errors import DeliveryRejected, Transient
from dicom_node.failpoint import failpoint
from dicom_node.loop import run_loop
from dicom_node.observe.audit import NOT_AUDITED, Audit, AuditEvent, StudyPart, Who
from dicom_node.store.commitment_box import CommitmentBox
from dicom_node.store.database import Database
from dicom_node.store.deliveries import (
    PENDING,
    SENT,
    Delivery,
    claim_deliveries,
    courier_token,
    due_destinations,
    extend_deliveries,
)
from dicom_node.store.files import waiting_for_the_disk
from dicom_node.store.leases import heartbeat

# A courier that dies leaves its claims until then; sending an object twice is harmless, since the
# destination gets the same bytes under the same UID.
LEASE = timedelta(seconds=30)
BATCH = 8
# A question names many objects at once; the answer settles each.
QUESTION_BATCH = 100
# After an error of database or disk, per thread.
PAUSE_SECONDS = 1.0
_log = structlog.get_logger()


class Courier:
    """Sends every due delivery, asks for confirmation where a destination gives it, and answers
    senders that ask us; each destination and each sender has a thread of its own."""

    def __init__(
        self,
        database: Database,
        config: NodeConfig,
        policy: RetryPolicy,
        *,
        worker: str,
        clock: Callable[[], datetime],
        audit: Audit = NOT_AUDITED,
    ) -> None:
        self._audit = audit
        self._database = database
        self._config = config
        self._worker = worker
        self._clock = clock
        self._box = box = CommitmentBox(config.commitment_dir)
        self._settler = Settler(database, policy, clock)
        self._confirmer = Confirmer(self._settler, box, ae_title=config.ae_title, clock=clock)
        self._answers = Answers(database, config, policy, box, clock=clock)
        self._busy: dict[str, threading.Thread] = {}
        self._rest_until: dict[str, datetime] = {}
        self._stop = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop` is set; then wait for what is on its way."""
        self._stop = stop
        run_loop("deliver", self.dispatch, stop)
        self.join()

    def join(self) -> None:
        """Wait for the threads at work."""
        for thread in self._busy.values():
            thread.join()

    def dispatch(self) -> bool:
        """Start a thread for each peer that has something due and none at work."""
        with self._database.read() as connection:
            due = due_destinations(connection, now=self._clock())
        self._busy = {name: thread for name, thread in self._busy.items() if thread.is_alive()}
        if self._box.any_report():
            self._start("reports", self._confirmer.take_reports)
        for name in due:
            self._start(f"to {name}", partial(self._drain, name))
        if self._box.any_request():
            self._start("requests", self._answers.take_requests)
        for title in self._answers.due_senders():
            self._start(f"answers {title}", partial(self._answers.answer, title))
        return False

    def _start(self, name: str, work: Callable[[], None]) -> None:
        if name in self._busy:
            return

        def guarded() -> None:
            try:
                with waiting_for_the_disk():
                    work()
            except Transient as error:  # what was claimed is due again when its lease ends
                _log.warning(
                    "deliveries paused", action="deliveries_paused", work=name, error=str(error)
                )
                self._stop.wait(PAUSE_SECONDS)

        self._busy[name] = thread = threading.Thread(target=guarded, name=name)
        thread.start()

    def _drain(self, destination: str) -> None:
        for do_batch in (self.deliver_batch, self.confirm_batch):
            while not (self._stop.is_set() or self._rests(destination)) and do_batch(destination):
                pass

    def _rests(self, destination: str) -> bool:
        """Whether it asked to be left alone, and the time that it named is not over."""
        now = self._clock()
        return now < self._rest_until.get(destination, now) <= now + LONGEST_WAIT

    def deliver_batch(self, destination: str) -> bool:
        """Send what is due for one destination, over one connection; False if nothing is."""
        token, batch = self._claim(destination, PENDING, BATCH)
        if not batch:
            return False
        failpoint("deliver.after_claim")
        peer = self._peer(destination, batch)
        if peer is None:
            return True
        intact = leave_out_damaged(self._settler, self._config.store_dir, batch)
        by_path = {self._config.store_dir / item.path: item for item in intact}

        def settle(path: Path, outcome: SendOutcome) -> None:
            self._settle(peer, by_path[path], outcome)

        with heartbeat(lambda: self._extend(token), LEASE):
            if isinstance(peer, DicomwebConfig):
                store_files(peer, list(by_path), settle)
            else:
                send_files(peer, self._config.ae_title, list(by_path), settle)
        return True

    def confirm_batch(self, destination: str) -> bool:
        """Ask one destination whether it has what it took; False if no question is due."""
        token, batch = self._claim(destination, SENT, QUESTION_BATCH)
        if not batch:
            return False
        peer = self._peer(destination, batch)
        if peer is not None:
            with heartbeat(lambda: self._extend(token), LEASE):
                self._confirmer.confirm(peer, batch)
        return True

    def _claim(self, destination: str, state: str, limit: int) -> tuple[str, list[Delivery]]:
        token = courier_token(self._worker)
        with self._database.begin() as connection:
            batch = claim_deliveries(
                connection,
                destination=destination,
                token=token,
                lease=LEASE,
                limit=limit,
                now=self._clock(),
                state=state,
            )
        return token, batch

    def _peer(self, destination: str, batch: list[Delivery]) -> Destination | None:
        peer = self._config.peers.get(destination)
        if peer is None:
            with self._settler.begin() as settling:
                for delivery in batch:
                    settling.parked(delivery, "no such destination is configured any more")
        return peer

    def _extend(self, token: str) -> None:
        with self._database.begin() as connection:
            extend_deliveries(connection, token, lease=LEASE, now=self._clock())

    def _settle(self, peer: Destination, delivery: Delivery, outcome: SendOutcome) -> None:
        if outcome.error is None:
            failpoint("deliver.after_send")
        with self._settler.begin() as settling:
            if isinstance(outcome.error, DeliveryRejected):
                settling.parked(delivery, str(outcome.error))
            elif outcome.error is not None:
                wait = outcome.error.wait
                settling.postponed(delivery, str(outcome.error), wait=wait)
                if wait is not None:
                    until = settling.now + min(wait, LONGEST_WAIT)
                    self._rest_until[delivery.destination] = until
            elif peer.confirm == "status":
                settling.delivered(delivery, remark=outcome.remark)
            else:
                after = self._confirmer.first_question_after(peer)
                settling.sent(delivery, remark=outcome.remark, ask_after=after)
        if outcome.error is None:
            failpoint("deliver.after_commit")
            self._audit.record(
                AuditEvent.RESULTS_SENT,
                who=_who(peer),
                study=StudyPart.of_file(self._config.store_dir / delivery.path),
                job=delivery.job_id,
                destination=delivery.destination,
                instance=delivery.sop_instance_uid,
            )


def _who(peer: Destination) -> Who:
    """A destination as the audit trail names it: one that speaks DICOMweb has no AE title."""
    if isinstance(peer, DestinationConfig):
        return Who(ae_title=peer.ae_title, host=peer.host)
    return Who(host=peer.host)
