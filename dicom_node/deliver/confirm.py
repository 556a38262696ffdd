"""From `sent` to `delivered`: asks each destination whether it has what it took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import uuid4

import structlog

from dicom_node.config_destinations import Destination, DestinationConfig, DicomwebConfig
from dicom_node.deliver import qido, query
from dicom_node.deliver.commitment import ask
from dicom_node.deliver.settle import Settler, Settling
from dicom_node.domain.commitment import (
    LOOKS_PER_COPY,
    CommitmentReport,
    CommitmentRequest,
    Reference,
    Remedy,
    judge_failure,
)
from dicom_node.errors import DeliveryRejected, DestinationUnavailable, short_uid
from dicom_node.store.commitment_box import CommitmentBox
from dicom_node.store.commitments import close_transaction, open_transaction
from dicom_node.store.deliveries import SENT, Delivery, sent_to

_COMMITTED = "confirmed by storage commitment"
_FOUND = "confirmed by query"
_ASKED = "storage commitment requested, no answer yet"
_UIDS_PER_QUERY = 500
_log = structlog.get_logger()


class Confirmer:
    """Settles deliveries in state `sent` by what their destinations say."""

    def __init__(
        self,
        settler: Settler,
        box: CommitmentBox,
        *,
        ae_title: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._settler = settler
        self._box = box
        self._ae_title = ae_title
        self._clock = clock

    def confirm(self, peer: Destination, batch: Sequence[Delivery]) -> None:
        """Ask for what was claimed; every delivery of the batch is settled."""
        if peer.confirm == "status":  # the configuration has changed: the status was success
            with self._settler.begin() as settling:
                for delivery in batch:
                    settling.delivered(delivery, remark=None)
        elif peer.confirm == "query":
            self._look(peer, batch)
        elif isinstance(peer, DestinationConfig):
            self._ask(peer, batch)

    def first_question_after(self, peer: Destination) -> timedelta:
        """How long after it took an object a destination is asked."""
        return peer.query_after if peer.confirm == "query" else timedelta(0)

    def take_reports(self) -> None:
        """Settle what the receiver, or we, heard from destinations."""
        for received in self._box.reports():
            self._take(received.report, received.calling_ae_title)
            self._box.remove(received.path)

    def _take(self, report: CommitmentReport, calling_ae_title: str) -> None:
        failures = {reference.sop_instance_uid: reason for reference, reason in report.failed}
        uids = [reference.sop_instance_uid for reference in report.committed] + list(failures)
        with self._settler.begin() as settling:
            destination = close_transaction(
                settling.connection, report.transaction_uid, now=settling.now
            )
            if destination is not None:
                for start in range(0, len(uids), _UIDS_PER_QUERY):
                    part = uids[start : start + _UIDS_PER_QUERY]
                    for delivery in sent_to(settling.connection, destination, part):
                        reason = failures.get(delivery.sop_instance_uid)
                        _settle_answered(settling, delivery, report.transaction_uid, reason)
        _log.info(
            "storage commitment report taken"
            if destination is not None
            else "storage commitment report names no transaction of ours",
            action="commitment_report_taken" if destination is not None else "commitment_unknown",
            destination=destination,
            calling_ae_title=calling_ae_title,
            transaction=short_uid(report.transaction_uid),
            committed=len(report.committed),
            failed=len(report.failed),
        )

    def _ask(self, peer: DestinationConfig, batch: Sequence[Delivery]) -> None:
        batch = self._without_overdue(batch)
        if not batch:
            return
        references = [Reference(item.sop_class_uid, item.sop_instance_uid) for item in batch]
        request = CommitmentRequest(f"2.25.{uuid4().int}", tuple(references))  # PS3.5 B.2
        with self._settler.begin() as settling:
            open_transaction(
                settling.connection,
                request.transaction_uid,
                batch,
                destination=batch[0].destination,
                now=settling.now,
            )

        def keep(report: CommitmentReport) -> None:
            self._box.put_report(report, calling_ae_title=peer.ae_title, now=self._clock())

        try:
            ask(peer, self._ae_title, request, keep)
        except DestinationUnavailable as error:
            with self._settler.begin() as settling:
                for delivery in batch:
                    settling.postponed(delivery, f"stored, but not confirmed: {error}")
        except DeliveryRejected as error:
            self._park(batch, f"stored, but cannot be confirmed: {error}")
        else:
            with self._settler.begin() as settling:
                for delivery in batch:
                    settling.waiting(delivery, reason=_ASKED, ask_after=peer.commitment_within)

    def _without_overdue(self, batch: Sequence[Delivery]) -> list[Delivery]:
        """Give up what has been asked for during the whole time that the policy allows."""
        left = []
        with self._settler.begin() as settling:
            for delivery in batch:
                if delivery.asked > 1 and settling.is_overdue(delivery):
                    settling.parked(
                        delivery,
                        f"stored, but not confirmed: storage commitment was requested "
                        f"{delivery.asked - 1} times and never answered",
                    )
                else:
                    left.append(delivery)
        return left

    def _look(self, peer: Destination, batch: Sequence[Delivery]) -> None:
        left = list(batch)

        def on_look(delivery: Delivery, found: bool) -> None:
            left.remove(delivery)
            with self._settler.begin() as settling:
                if found:
                    settling.delivered(delivery, remark=_FOUND)
                elif delivery.asked >= LOOKS_PER_COPY:
                    settling.denied(delivery, f"{delivery.asked} queries did not find it")
                else:
                    settling.postponed(delivery, "stored, but the query does not find it yet")

        try:
            if isinstance(peer, DicomwebConfig):
                qido.look_for(peer, batch, on_look)
            else:
                query.look_for(peer, self._ae_title, batch, on_look)
        except DestinationUnavailable as error:
            with self._settler.begin() as settling:
                for delivery in left:
                    reason = f"stored, but not confirmed: {error}"
                    settling.postponed(delivery, reason, wait=error.wait)
        except DeliveryRejected as error:
            self._park(left, f"stored, but cannot be confirmed: {error}")

    def _park(self, batch: Sequence[Delivery], reason: str) -> None:
        with self._settler.begin() as settling:
            for delivery in batch:
                settling.parked(delivery, reason)


def _settle_answered(
    settling: Settling, delivery: Delivery, transaction_uid: str, reason: int | None
) -> None:
    """Apply one object's part of a report; only the newest request's refusals count."""
    if reason is None:
        settling.delivered(delivery, remark=_COMMITTED)
        return
    if delivery.state != SENT or delivery.transaction_uid != transaction_uid:
        return
    remedy, sentence = judge_failure(reason)
    if remedy is Remedy.SEND_AGAIN:
        settling.denied(delivery, sentence)
    elif remedy is Remedy.ASK_AGAIN:
        settling.postponed(delivery, sentence)
    else:
        settling.parked(delivery, sentence)
