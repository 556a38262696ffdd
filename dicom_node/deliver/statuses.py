"""What the status of a C-STORE response means for a delivery (PS3.4 B.2.3, PS3.7 annex C)."""

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
_WARNINGS = range(0xB000, 0xC000)
_OUT_OF_RESOURCES = range(0xA700, 0xA800)
_CANNOT_UNDERSTAND = range(0xC000, 0xD000)


def judge_status(
    status: int,
) -> tuple[str | None, DestinationUnavailable | DeliveryRejected | None]:
    """Sort a C-STORE status.

    Parameters
    ----------
    status
        16 bits.

    Returns
    -------
    tuple
        A remark for what was stored with one, and the error for what was not stored:
        `DestinationUnavailable` where a later attempt may succeed, else `DeliveryRejected`.
    """
    code = f"status 0x{status:04X}"
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
