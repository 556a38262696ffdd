"""Storage commitment on the wire: data sets to values and back, for both roles.

Action and event information of the Storage Commitment Push Model, PS3.4 tables J.3-1 and J.3-2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from pydicom import Dataset

from dicom_node.domain.commitment import CommitmentReport, CommitmentRequest, Reference
from dicom_node.errors import BadInput

PUSH_MODEL: Final = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
"""The well-known SOP instance that every request and report names."""

REQUEST_ACTION: Final = 1
ALL_COMMITTED: Final = 1
SOME_FAILED: Final = 2
"""Action Type ID and Event Type IDs."""

_UID_CHARACTERS: Final = frozenset("0123456789.")
_UID_LENGTH: Final = 64

T = TypeVar("T")


def write_request(request: CommitmentRequest) -> Dataset:
    """The action information of an N-ACTION."""
    data_set = Dataset()
    data_set.TransactionUID = request.transaction_uid
    data_set.ReferencedSOPSequence = [_item(reference) for reference in request.references]
    return data_set


def read_request(data_set: Dataset) -> CommitmentRequest:
    """Read the action information of an N-ACTION.

    Raises
    ------
    BadInput
        No Transaction UID, no references, or UIDs that are none.
    """

    def read() -> CommitmentRequest:
        references = tuple(_reference(item) for item in data_set.ReferencedSOPSequence)
        if not references:
            raise BadInput("ReferencedSOPSequence (0008,1199) is empty")
        return CommitmentRequest(_uid(data_set.TransactionUID), references)

    return _guarded(read)


def write_report(report: CommitmentReport) -> tuple[int, Dataset]:
    """The Event Type ID and the event information of an N-EVENT-REPORT."""
    data_set = Dataset()
    data_set.TransactionUID = report.transaction_uid
    if report.committed:
        data_set.ReferencedSOPSequence = [_item(reference) for reference in report.committed]
    if not report.failed:
        return ALL_COMMITTED, data_set
    data_set.FailedSOPSequence = []
    for reference, reason in report.failed:
        item = _item(reference)
        item.FailureReason = reason
        data_set.FailedSOPSequence.append(item)
    return SOME_FAILED, data_set


def read_report(data_set: Dataset) -> CommitmentReport:
    """Read the event information of an N-EVENT-REPORT; what it lists decides, not its type.

    Raises
    ------
    BadInput
        No Transaction UID, UIDs that are none or a failure without reason.
    """

    def read() -> CommitmentReport:
        return CommitmentReport(
            _uid(data_set.TransactionUID),
            tuple(_reference(item) for item in data_set.get("ReferencedSOPSequence") or ()),
            tuple(
                (_reference(item), int(item.FailureReason))
                for item in data_set.get("FailedSOPSequence") or ()
            ),
        )

    return _guarded(read)


def _guarded(read: Callable[[], T]) -> T:
    # pydicom decodes while it is read: any bytes may come in, so any of its errors may come out.
    try:
        return read()
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"storage commitment: cannot be read ({type(error).__name__})") from error


def _item(reference: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    return item


def _reference(item: Dataset) -> Reference:
    return Reference(_uid(item.ReferencedSOPClassUID), _uid(item.ReferencedSOPInstanceUID))


def _uid(value: object) -> str:
    uid = str(value).strip()
    if not 1 <= len(uid) <= _UID_LENGTH or not _UID_CHARACTERS.issuperset(uid):
        raise BadInput("storage commitment: a UID is missing or is none")
    return uid
