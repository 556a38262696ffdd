"""How long bytes are kept: values only; rows are kept for ever."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Ages at which the files of a study may go; None keeps them.

    A study goes as a whole, once each of its jobs may. A job that nobody confirmed and nobody
    waived keeps its study, whatever the policy.

    Attributes
    ----------
    delivered
        Since every destination confirmed every result.
    refused
        Since a study was refused: no route took it, or it was not analysed and any report of that
        is confirmed.
    waived
        Since a person waived the job.
    quarantined
        Since a file without a readable header came.
    minimum_free_bytes
        With less free disk the oldest confirmed and waived studies go before their age.
    """

    delivered: timedelta | None = None
    refused: timedelta | None = None
    waived: timedelta | None = None
    quarantined: timedelta | None = None
    minimum_free_bytes: int = 0
