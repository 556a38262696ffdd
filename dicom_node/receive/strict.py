"""pynetdicom's reading side, strict: every length, order and identifier is checked before use.

A peer that breaks the protocol gets an A-ABORT with the standard's reason; one object that cannot
be stored gets a status and the association goes on. It overrides internals of the pinned
pynetdicom, as `transport` does.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import IntEnum
from typing import Any, Final, cast

import structlog
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_CANCEL, C_STORE
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import A_ABORT_RQ, P_DATA_TF
from pynetdicom.pdu_items import PresentationDataValueItem
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AddressInformation

from dicom_node.dimse import PatientStateMachine
from dicom_node.receive.spool import DataSetBuffer
from dicom_node.receive.waiting import MAXIMUM_REQUEST_BYTES, linger

_log = structlog.get_logger()

# PS3.4 B.2.3 and PS3.7 annex C
INVALID_SOP_INSTANCE: Final = 0x0117
DATA_SET_DOES_NOT_MATCH_SOP_CLASS: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000

_HEAD: Final = struct.Struct(">BxL")
_ITEM: Final = struct.Struct(">LB")  # length, presentation context: PS3.8 section 9.3.5.1
_P_DATA_TF: Final = 0x04
# Shortest and longest length field of each PDU but P-DATA-TF (PS3.8 section 9.3).
_LENGTHS: Final = {
    0x01: (68, MAXIMUM_REQUEST_BYTES),
    0x02: (68, MAXIMUM_REQUEST_BYTES),
    0x03: (4, 4),
    0x05: (4, 4),
    0x06: (4, 4),
    0x07: (4, 4),
}
_MAXIMUM_COMMAND_BYTES: Final = 1 << 16
_NO_DATA_SET: Final = 0x0101
_UID_CHARACTERS: Final = frozenset("0123456789.")
_UID_LENGTH: Final = 64


class AbortReason(IntEnum):
    """Reason of an A-ABORT from the service provider (PS3.8 table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6


class _Violation(Exception):
    """The peer's message breaks the protocol."""

    def __init__(self, reason: AbortReason) -> None:
        super().__init__(reason.name)
        self.reason = reason


class StrictReader(DULServiceProvider):
    """Reads PDUs of bounded length, one message at a time.

    Parameters
    ----------
    maximum_pdu_bytes
        Longest P-DATA-TF, as it was announced to the peer.
    """

    def __init__(self, association: Association, *, maximum_pdu_bytes: int) -> None:
        super().__init__(association)
        self.state_machine = PatientStateMachine(self)
        self._maximum_pdu_bytes = maximum_pdu_bytes
        self._violation: AbortReason | None = None

    def violate(self, reason: AbortReason) -> None:
        """Abort the association: the peer has broken the protocol or gone silent."""
        if self._violation is None:
            self._violation = reason
            _log.warning(
                "association aborted: the peer broke the protocol or went silent",
                action="association_aborted",
                reason=reason.name.lower(),
                host=cast(AddressInformation, self.assoc.requestor.address_info).address,
            )
        self.event_queue.put("Evt19")

    def forgive_silence(self) -> None:
        """Count the peer's idle time from now: it was we who kept it waiting."""
        self._idle_timer.restart()

    def _is_transport_event(self) -> bool:
        if self._violation is not None and self.state_machine.current_state == "Sta13":
            self._see_off()
            return True
        if self.assoc.dimse.msg_queue.qsize():
            return False  # a peer that does not wait for its answers must not fill our memory
        return super()._is_transport_event()

    def _see_off(self) -> None:
        connection = None if self.socket is None else self.socket.socket
        if self.socket is None or connection is None:
            return
        with suppress(OSError):
            linger(connection)
        self.socket.close()
        self.to_user_queue.put(None)  # wakes an association that still waits for its request

    def _read_pdu_data(self) -> None:
        connection = cast(Any, self.socket)
        try:
            pdu = connection.recv(_HEAD.size)
            if len(pdu) < _HEAD.size:
                self.event_queue.put("Evt17")
                return
            kind, length = _HEAD.unpack(pdu)
            self._check_length(kind, length)
            pdu += connection.recv(length)
            if len(pdu) < _HEAD.size + length:
                self.event_queue.put("Evt17")
                return
            decoded, event = self._decoded(kind, pdu)
        except _Violation as violation:
            self.violate(violation.reason)
        except TimeoutError:
            self.violate(AbortReason.NOT_SPECIFIED)
        except OSError:
            self.event_queue.put("Evt17")
        except Exception:  # noqa: BLE001 - process edge: any bytes may come in, any error out
            self.violate(AbortReason.INVALID_PARAMETER)
        else:
            self._recv_pdu.put(decoded)
            self.event_queue.put(event)

    def _check_length(self, kind: int, length: int) -> None:
        if kind == _P_DATA_TF:
            shortest, longest = _ITEM.size + 1, self._maximum_pdu_bytes
        elif kind in _LENGTHS:
            shortest, longest = _LENGTHS[kind]
        else:
            raise _Violation(AbortReason.UNRECOGNIZED_PDU)
        if not shortest <= length <= longest:
            raise _Violation(AbortReason.INVALID_PARAMETER)

    def _decoded(self, kind: int, pdu: bytearray) -> tuple[Any, str]:
        if kind != _P_DATA_TF:
            return cast(tuple[Any, str], self._decode_pdu(pdu))
        data = P_DATA_TF()
        data.presentation_data_value_items = list(_items(memoryview(pdu)[_HEAD.size :]))
        return data, "Evt10"

    def _send(self, pdu: Any) -> None:
        if isinstance(pdu, A_ABORT_RQ) and pdu.source == 2:
            # The library knows no reasons; without a violation, what came was a PDU out of order.
            unexpected = AbortReason.UNEXPECTED_PDU
            pdu.reason_diagnostic = unexpected if self._violation is None else self._violation
        super()._send(pdu)


def _items(content: memoryview) -> Iterator[PresentationDataValueItem]:
    """Take a P-DATA-TF's variable field apart; its items must fill it exactly."""
    offset = 0
    while offset < len(content):
        if len(content) - offset < _ITEM.size + 1:
            raise _Violation(AbortReason.INVALID_PARAMETER)
        length, context_id = _ITEM.unpack_from(content, offset)
        end = offset + 4 + length
        if length < 2 or end > len(content):  # context and message control header at least
            raise _Violation(AbortReason.INVALID_PARAMETER)
        item = PresentationDataValueItem()
        item.presentation_context_id = context_id
        item.presentation_data_value = bytes(content[offset + _ITEM.size : end])
        yield item
        offset = end


class StrictMessages(DIMSEServiceProvider):
    """Puts DIMSE messages together from fragments in the one order that PS3.8 annex E allows.

    Parameters
    ----------
    new_data_set
        Makes the buffer that a message's data set is collected in.
    on_refused
        Called with the association for each C-STORE that is answered here, not by the handler.
    """

    def __init__(
        self,
        association: Association,
        *,
        new_data_set: Callable[[], DataSetBuffer],
        on_refused: Callable[[Association], None],
    ) -> None:
        super().__init__(association)
        self._new_data_set = new_data_set
        self._on_refused = on_refused

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take the fragments of one PDU; a broken one ends the association."""
        reader = cast(StrictReader, self.dul)
        try:
            for context_id, fragment in primitive.presentation_data_value_list:
                self._take(context_id, fragment)
        except _Violation as violation:
            self.message = None
            reader.violate(violation.reason)
        except Exception:  # noqa: BLE001 - process edge: any bytes may come in, any error out
            self.message = None
            reader.violate(AbortReason.INVALID_PARAMETER)

    def _take(self, context_id: int, fragment: bytes) -> None:
        if context_id not in self.assoc._accepted_cx:
            raise _Violation(AbortReason.INVALID_PARAMETER)
        if self.message is None:
            self.message = DIMSEMessage()
            self.message.data_set = self._new_data_set()
        message = self.message
        self._check_order(message, context_id, is_command=bool(fragment[0] & 1))
        pieces = P_DATA()
        pieces.presentation_data_value_list = [
            [context_id, fragment]  # type: ignore[list-item]  # typed as tuple, checked as list
        ]
        if message.decode_msg(pieces, self.assoc):
            self.message = None
            self._deliver(message, context_id)

    def _check_order(self, message: DIMSEMessage, context_id: int, *, is_command: bool) -> None:
        if is_command == (message.context_id is not None):  # known from the command's last fragment
            raise _Violation(AbortReason.UNEXPECTED_PARAMETER)
        if message.context_id not in {None, context_id}:
            raise _Violation(AbortReason.INVALID_PARAMETER)
        if message.encoded_command_set.tell() > _MAXIMUM_COMMAND_BYTES:
            raise _Violation(AbortReason.INVALID_PARAMETER)

    def _deliver(self, message: DIMSEMessage, context_id: int) -> None:
        if isinstance(message, C_STORE_RQ):
            status = self._refusal(message, context_id)
            if status is not None:
                self._answer(message, context_id, status)
                return
        request = message.message_to_primitive()
        if isinstance(request, C_CANCEL):
            return  # no service here can be cancelled
        if not (request.is_valid_request or request.is_valid_response):
            raise _Violation(AbortReason.INVALID_PARAMETER)
        self.msg_queue.put((context_id, request))

    def _refusal(self, message: DIMSEMessage, context_id: int) -> int | None:
        """Why a C-STORE is refused whatever its data set holds; None: it is not."""
        command = message.command_set
        sop_instance_uid = str(command.get("AffectedSOPInstanceUID") or "").strip()
        context = self.assoc._accepted_cx[context_id]
        if command.get("AffectedSOPClassUID") != context.abstract_syntax:
            return DATA_SET_DOES_NOT_MATCH_SOP_CLASS
        if not 1 <= len(sop_instance_uid) <= _UID_LENGTH:
            return INVALID_SOP_INSTANCE
        if not _UID_CHARACTERS.issuperset(sop_instance_uid):
            return INVALID_SOP_INSTANCE
        data_set = message.data_set
        no_data_set = command.CommandDataSetType == _NO_DATA_SET
        if no_data_set or (isinstance(data_set, DataSetBuffer) and not data_set.size):
            return CANNOT_UNDERSTAND
        return None

    def _answer(self, message: DIMSEMessage, context_id: int, status: int) -> None:
        answer = C_STORE()
        answer.MessageIDBeingRespondedTo = message.command_set.MessageID
        answer.Status = status
        self._on_refused(self.assoc)
        self.send_msg(answer, context_id)
