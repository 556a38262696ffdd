"""Storage commitment over associations that we open: asking a destination, answering a sender."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_role
from pynetdicom.association import Association
from pynetdicom.events import EVT_N_EVENT_REPORT, Event
from pynetdicom.presentation import build_context

from dicom_node.config_destinations import DestinationConfig
from dicom_node.deliver.association import associate
from dicom_node.deliver.statuses import SUCCESS
from dicom_node.domain.commitment import CommitmentReport, CommitmentRequest
from dicom_node.errors import BadInput, DeliveryRejected, DestinationUnavailable
from dicom_node.storage_commitment import (
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    REQUEST_ACTION,
    read_report,
    write_report,
    write_request,
)

_INVALID_ARGUMENT: Final = 0x0115
_RESOURCE_LIMITATION: Final = 0x0213
# PS3.7 annex C; a destination that answers so will answer so again.
_NEVER: Final = {
    0x0105: "no such attribute",
    0x0117: "invalid object instance",
    0x0118: "no such SOP class",
    0x0119: "class / instance conflict",
    0x0122: "SOP class not supported",
    0x0123: "no such action",
    0x0124: "not authorized",
    0x0211: "unrecognized operation",
}
_POLL_SECONDS = 0.05

KeepReport = Callable[[CommitmentReport], None]
"""Keeps an answer, durable on return; OSError: not kept."""


def ask(
    destination: DestinationConfig,
    calling_ae_title: str,
    request: CommitmentRequest,
    keep_report: KeepReport,
) -> None:
    """Ask a destination to vouch for what it took (N-ACTION).

    The association stays open for `destination.commitment_wait`: a destination that cannot connect
    to us, or answers at once, answers on it. Others connect to our receiver, now or next night.

    Raises
    ------
    DestinationUnavailable
        Not asked, or not now; a later request may succeed.
    DeliveryRejected
        It does not offer storage commitment, or not to us.
    """
    answered = threading.Event()

    def on_report(event: Event) -> tuple[int, None]:
        try:
            report = read_report(event.event_information)
            keep_report(report)
        except BadInput:
            return _INVALID_ARGUMENT, None
        except OSError:
            return _RESOURCE_LIMITATION, None
        if report.transaction_uid == request.transaction_uid:
            answered.set()
        return SUCCESS, None

    contexts = [build_context(PUSH_MODEL, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])]
    try:
        with associate(
            destination,
            calling_ae_title,
            contexts,
            handlers=[(EVT_N_EVENT_REPORT, on_report)],
        ) as association:
            answer, _ = association.send_n_action(
                write_request(request), REQUEST_ACTION, PUSH_MODEL, PUSH_MODEL_INSTANCE
            )
            _check(answer, destination, "the storage commitment request")
            _wait(association, answered, destination.commitment_wait.total_seconds())
    except (RuntimeError, ValueError) as error:  # what the library says of an association that ends
        raise DestinationUnavailable(
            f"{destination.ae_title} ended the association during storage commitment"
        ) from error


def _wait(association: Association, answered: threading.Event, limit_seconds: float) -> None:
    deadline = time.monotonic() + limit_seconds
    while association.is_established and time.monotonic() < deadline:
        if answered.wait(_POLL_SECONDS):
            time.sleep(_POLL_SECONDS)  # the library answers the report after its handler
            return


def answer_sender(
    sender: DestinationConfig, calling_ae_title: str, report: CommitmentReport
) -> None:
    """Tell a sender what became of its objects (N-EVENT-REPORT) over a new association.

    Raises
    ------
    DestinationUnavailable
        It has not heard it; a later attempt may succeed.
    DeliveryRejected
        It takes no such reports from us.
    """
    contexts = [build_context(PUSH_MODEL, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])]
    roles = [build_role(PUSH_MODEL, scp_role=True)]  # we connect, and are the SCP all the same
    event_type, information = write_report(report)
    try:
        with associate(sender, calling_ae_title, contexts, roles=roles) as association:
            if not any(context.as_scp for context in association.accepted_contexts):
                raise DeliveryRejected(
                    f"{sender.ae_title} accepts storage commitment, but not with us as its SCP"
                )
            answer, _ = association.send_n_event_report(
                information, event_type, PUSH_MODEL, PUSH_MODEL_INSTANCE
            )
            _check(answer, sender, "the storage commitment report")
    except (RuntimeError, ValueError) as error:
        raise DestinationUnavailable(
            f"{sender.ae_title} ended the association during the storage commitment report"
        ) from error


def _check(answer: Dataset, destination: DestinationConfig, what: str) -> None:
    status: int | None = answer.get("Status")
    if status == SUCCESS:
        return
    if status is None:
        raise DestinationUnavailable(f"{destination.ae_title} gave no answer to {what}")
    sentence = f"{destination.ae_title} refused {what}, status 0x{status:04X}"
    if status in _NEVER:
        raise DeliveryRejected(f"{sentence}: {_NEVER[status]}")
    raise DestinationUnavailable(sentence)
