"""What statuses mean for a delivery.

Of a C-STORE response: PS3.4 B.2.3, PS3.7 annex C; of an object in an answer to STOW-RS: PS3.18 I.2.
"""

from __future__ import annotations

from typing import Final

from dicom_node.errors import DeliveryRejected, DestinationUnavailable

SUCCESS: Final = 0x0000
_STORED_WITH_REMARK: Final = {
    0x0107: "attribute list error",
    0x0111: "already there (duplicate SOP instance)",
    0x0116: "attribute value out of range",
    0xB000: "data elements coerced",
    0xB006: "elements discarded",
    0xB007: "data set does not match its SOP class",
}
_TRY_AGAIN: Final = {
    0x0110: "processing failure",
    0x0213: "resource limitation",
}
_REJECTED: Final = {
    0x0117: "invalid SOP instance UID",
    0x0122: "SOP class not supported",
    0x0124: "not authorized",
}
_REJECTED_RANGES: Final = {
    0xA8: "SOP class not supported",
    0xA9: "data set does not match its SOP class",
}
_ALREADY_THERE: Final = (
    0x0111,
    0xB00E,  # 45070 of Microsoft's DICOM service, as its conformance statement says
)
_TRANSFER_SYNTAX_NOT_SUPPORTED: Final = 0xC122
_WARNINGS = range(0xB000, 0xC000)
_OUT_OF_RESOURCES = range(0xA700, 0xA800)
_CANNOT_UNDERSTAND = range(0xC000, 0xD000)


def judge_status(
    status: int, *, called: str = "status"
) -> tuple[str | None, DestinationUnavailable | DeliveryRejected | None]:
    """Sort a C-STORE status.

    Parameters
    ----------
    status
        16 bits.
    called
        What the sentence calls it.

    Returns
    -------
    tuple
        A remark for what was stored with one, and the error for what was not stored:
        `DestinationUnavailable` where a later attempt may succeed, else `DeliveryRejected`.
    """
    code = f"{called} 0x{status:04X}"
    if status == SUCCESS:
        return None, None
    if status in _STORED_WITH_REMARK or status in _WARNINGS:
        return f"{code}: {_STORED_WITH_REMARK.get(status, 'stored with a warning')}", None
    if status in _OUT_OF_RESOURCES:
        return None, DestinationUnavailable(f"{code}: the destination is out of resources")
    if status in _TRY_AGAIN:
        return None, DestinationUnavailable(f"{code}: {_TRY_AGAIN[status]} at the destination")
    if status in _CANNOT_UNDERSTAND:
        return None, DeliveryRejected(f"{code}: the destination cannot understand the object")
    reason = _REJECTED.get(status) or _REJECTED_RANGES.get(status >> 8) or "failure"
    return None, DeliveryRejected(f"{code}: {reason}")


def judge_failure_reason(
    reason: int | None,
) -> tuple[str | None, DestinationUnavailable | DeliveryRejected | None]:
    """Sort the Failure Reason (0008,1197) of an object that STOW-RS did not store.

    Parameters
    ----------
    reason
        16 bits; None: the answer gives none.

    Returns
    -------
    tuple
        As of `judge_status`: the same classes, for the codes are the same.
    """
    if reason is None:
        return None, DestinationUnavailable("it failed at the destination, which does not say why")
    code = f"failure reason 0x{reason:04X}"
    if reason in _ALREADY_THERE:
        return f"{code}: already there (duplicate SOP instance)", None
    if reason == _TRANSFER_SYNTAX_NOT_SUPPORTED:
        return None, DeliveryRejected(f"{code}: transfer syntax not supported")
    remark, error = judge_status(reason, called="failure reason")
    if error is None:  # success or a warning, of an object that failed
        error = DestinationUnavailable(remark or f"{code}: the destination contradicts itself")
    return None, error
