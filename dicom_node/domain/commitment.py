"""Storage commitment as values: who vouches for which objects, and what a refusal means.

Storage Commitment Push Model, PS3.4 annex J: the one who sent objects asks (N-ACTION), the one who
has them answers later (N-EVENT-REPORT). Both carry a Transaction UID of the asker's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_OBJECT_INSTANCE: Final = 0x0112
CLASS_INSTANCE_CONFLICT: Final = 0x0119
"""Failure Reason (0008,1197), PS3.3 C.14.1.1."""

MOST_DENIALS: Final = 3
"""An object that its destination took and then denied so often is parked."""

LOOKS_PER_COPY: Final = 5
"""An object that so many look-backs did not find is sent again."""


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """One object, as commitment messages name it."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """Please vouch for these (N-ACTION, PS3.4 J.3.2)."""

    transaction_uid: str
    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """The answer (N-EVENT-REPORT, PS3.4 J.3.3).

    Attributes
    ----------
    committed
        Objects that are safe there.
    failed
        Objects that are not, each with its Failure Reason (0008,1197; 16 bits).
    """

    transaction_uid: str
    committed: tuple[Reference, ...]
    failed: tuple[tuple[Reference, int], ...] = ()


class Remedy(StrEnum):
    """What to do about an object that a destination does not vouch for."""

    SEND_AGAIN = "send_again"
    ASK_AGAIN = "ask_again"
    PARK = "park"


_FAILURES: Final = {
    PROCESSING_FAILURE: (Remedy.ASK_AGAIN, "processing failure"),
    NO_SUCH_OBJECT_INSTANCE: (Remedy.SEND_AGAIN, "no such object instance"),
    CLASS_INSTANCE_CONFLICT: (Remedy.PARK, "class / instance conflict"),
    0x0122: (Remedy.PARK, "SOP class not supported"),
    0x0131: (Remedy.ASK_AGAIN, "duplicate transaction UID"),
    0x0213: (Remedy.ASK_AGAIN, "resource limitation"),
}


def judge_failure(reason: int) -> tuple[Remedy, str]:
    """What a Failure Reason asks for, and the sentence for people.

    Parameters
    ----------
    reason
        16 bits; one that the standard does not list asks for the object again.
    """
    remedy, words = _FAILURES.get(reason, (Remedy.SEND_AGAIN, "failure"))
    return remedy, f"storage commitment refused, reason 0x{reason:04X}: {words}"
