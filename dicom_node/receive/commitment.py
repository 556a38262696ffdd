"""Storage commitment at our port: destinations answer us, senders ask us. Needs no database.

What comes in lies in the commitment box, durable, before it is answered (PS3.4 annex J); the
courier works on it. The answer to a sender goes out on the association of its request where that
is still open.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from io import BytesIO
from typing import Final, cast

import structlog
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.events import EVT_N_ACTION, EVT_N_EVENT_REPORT, Event, EventHandlerType
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext

from dicom_node.domain.commitment import CommitmentReport
from dicom_node.errors import BadInput, short_uid
from dicom_node.storage_commitment import (
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    REQUEST_ACTION,
    read_report,
    read_request,
    write_report,
)
from dicom_node.store.commitment_box import CommitmentBox

# PS3.7 annex C
SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110
INVALID_ARGUMENT: Final = 0x0115
NO_SUCH_ACTION: Final = 0x0123
NOT_AUTHORIZED: Final = 0x0124
RESOURCE_LIMITATION: Final = 0x0213

MOST_BYTES: Final = 8 << 20
"""Of one request or report: some 50,000 references."""

# The courier judges within a second; it calls the sender itself a little later than this.
ANSWER_WITHIN = timedelta(seconds=4)
_RESPONSE_SECONDS = 10.0
_POLL_SECONDS = 0.05
_log = structlog.get_logger()


class CommitmentScp:
    """Handlers for the Storage Commitment Push Model on the receiver's associations.

    Parameters
    ----------
    vouches
        Whether senders may ask us; destinations' answers are always taken.
    has_room
        Whether so many more bytes may be written.
    """

    def __init__(
        self,
        box: CommitmentBox,
        *,
        vouches: bool,
        has_room: Callable[[int], bool],
        clock: Callable[[], datetime],
    ) -> None:
        self._box = box
        self._vouches = vouches
        self._has_room = has_room
        self._clock = clock

    def context(self) -> PresentationContext:
        """The presentation context, in either role: who answers us connects as the SCP."""
        context = PresentationContext()
        context.abstract_syntax = UID(PUSH_MODEL)
        context.transfer_syntax = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
        context.scu_role = context.scp_role = True
        return context

    def handlers(self) -> list[EventHandlerType]:
        """What to bind to the receiver's associations."""
        return [(EVT_N_ACTION, self._on_request), (EVT_N_EVENT_REPORT, self._on_report)]

    def _on_report(self, event: Event) -> tuple[int, None]:
        return self._guarded(event, "EventInformation", self._keep_report), None

    def _on_request(self, event: Event) -> tuple[int, None]:
        if not self._vouches:
            return NOT_AUTHORIZED, None
        if event.action_type != REQUEST_ACTION:
            return NO_SUCH_ACTION, None
        return self._guarded(event, "ActionInformation", self._keep_request), None

    def _guarded(self, event: Event, parameter: str, keep: Callable[[Event], None]) -> int:
        """Answer with a chosen status, whatever happens."""
        information: BytesIO | None = getattr(event.request, parameter)
        if information is None:
            return INVALID_ARGUMENT
        size = information.getbuffer().nbytes
        if size > MOST_BYTES or not self._has_room(size):
            return RESOURCE_LIMITATION
        try:
            keep(event)
        except BadInput as error:
            status, reason = INVALID_ARGUMENT, str(error)
        except OSError as error:
            status, reason = RESOURCE_LIMITATION, f"errno {error.errno}"
        except Exception as error:  # noqa: BLE001 - process edge: the peer must get an answer
            status, reason = PROCESSING_FAILURE, type(error).__name__
        else:
            return SUCCESS
        _log.warning(
            "storage commitment message not kept",
            action="commitment_not_kept",
            calling_ae_title=_caller(event.assoc),
            reason=reason,
        )
        return status

    def _keep_report(self, event: Event) -> None:
        report = read_report(event.event_information)
        self._box.put_report(report, calling_ae_title=_caller(event.assoc), now=self._clock())
        _log.info(
            "storage commitment report received",
            action="commitment_report_received",
            calling_ae_title=_caller(event.assoc),
            transaction=short_uid(report.transaction_uid),
        )

    def _keep_request(self, event: Event) -> None:
        request = read_request(event.action_information)
        association = event.assoc
        name = self._box.put_request(
            request, calling_ae_title=_caller(association), now=self._clock()
        )
        _log.info(
            "storage commitment requested",
            action="commitment_requested",
            calling_ae_title=_caller(association),
            transaction=short_uid(request.transaction_uid),
            references=len(request.references),
        )
        _answer_point(association, self._box).add(name, event.context.context_id)


def _caller(association: Association) -> str:
    return cast(A_ASSOCIATE, association.requestor.primitive).calling_ae_title.strip()


def _answer_point(association: Association, box: CommitmentBox) -> _AnswerPoint:
    point = association._reactor_checkpoint
    if not isinstance(point, _AnswerPoint):
        point = association._reactor_checkpoint = _AnswerPoint(association, box)
    return point


class _AnswerPoint(threading.Event):
    """Sends answers where the library's reactor passes between two messages.

    Nothing else is being sent or received there, so that no message gets in between the parts of
    another. It overrides internals of the pinned pynetdicom.
    """

    def __init__(self, association: Association, box: CommitmentBox) -> None:
        super().__init__()
        self.set()
        self._association = association
        self._box = box
        self._owed: dict[str, tuple[int, float]] = {}  # context, end of its time
        self._next_look = 0.0

    def add(self, name: str, context_id: int) -> None:
        """Look for this answer for a few seconds."""
        self._owed[name] = context_id, time.monotonic() + ANSWER_WITHIN.total_seconds()

    def wait(self, timeout: float | None = None) -> bool:
        """Pass; called by the reactor some hundred times a second."""
        now = time.monotonic()
        if self._owed and now >= self._next_look:
            self._next_look = now + _POLL_SECONDS
            self._owed = {name: item for name, item in self._owed.items() if now < item[1]}
            try:
                self._answer()
            except Exception as error:  # noqa: BLE001 - process edge: the courier answers instead
                self._owed.clear()
                _log.warning(
                    "storage commitment not answered on the association of the request",
                    action="commitment_not_answered",
                    reason=type(error).__name__,
                )
        return super().wait(timeout)

    def _answer(self) -> None:
        for name, (context_id, _) in list(self._owed.items()):
            if self._association.dul.peek_next_pdu() is not None:
                return  # the sender releases or has gone
            report = self._box.hold_answer(name)
            if report is None:
                continue
            del self._owed[name]
            if self._send(report, context_id):
                self._box.mark_sent(name)
            else:
                self._box.let_go(name)

    def _send(self, report: CommitmentReport, context_id: int) -> bool:
        """Send an N-EVENT-REPORT; whether the sender took it.

        Either side may have a request open (PS3.7 section 9.1.1.1): the next message may be the
        sender's next C-STORE instead of its response. Such requests are served afterwards.
        """
        association, meanwhile = self._association, []
        association.dimse.send_msg(_event_report(report, association, context_id), context_id)
        deadline = time.monotonic() + _RESPONSE_SECONDS
        try:
            while association.dul.peek_next_pdu() is None and time.monotonic() < deadline:
                message = association.dimse.get_msg(block=False)
                if message == (None, None):
                    time.sleep(_POLL_SECONDS)
                elif isinstance(message[1], N_EVENT_REPORT) and message[1].is_valid_response:
                    return message[1].Status == SUCCESS
                else:
                    meanwhile.append(message)
            return False
        finally:
            for message in meanwhile:
                association.dimse.msg_queue.put(message)


def _event_report(
    report: CommitmentReport, association: Association, context_id: int
) -> N_EVENT_REPORT:
    event_type, information = write_report(report)
    contexts = {context.context_id: context for context in association.accepted_contexts}
    syntax = contexts[context_id].transfer_syntax[0]
    request = N_EVENT_REPORT()
    request.MessageID = 1
    request.AffectedSOPClassUID = UID(PUSH_MODEL)
    request.AffectedSOPInstanceUID = UID(PUSH_MODEL_INSTANCE)
    request.EventTypeID = event_type
    encoded = encode(information, syntax.is_implicit_VR, syntax.is_little_endian)
    assert encoded is not None, "UIDs and numbers can be encoded"
    request.EventInformation = BytesIO(encoded)
    return request
