"""Whom the receiver lets in: an association is accepted or refused with the standard's reason."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum


class Refusal(Enum):
    """Result, source and diagnostic of an A-ASSOCIATE-RJ (PS3.8 section 9.3.4)."""

    CALLING_AE_TITLE_NOT_RECOGNIZED = (1, 1, 3)
    CALLED_AE_TITLE_NOT_RECOGNIZED = (1, 1, 7)
    TEMPORARY_CONGESTION = (2, 3, 1)
    LOCAL_LIMIT_EXCEEDED = (2, 3, 2)


@dataclass(frozen=True, slots=True)
class Admission:
    """The receiver's rules.

    Attributes
    ----------
    ae_title
        Ours.
    calling_ae_titles
        Who may call; empty: anybody.
    require_called_ae_title
        Whether a caller must name us by our AE title.
    max_associations
        How many may be open at a time, in this process.
    """

    ae_title: str
    calling_ae_titles: Collection[str]
    require_called_ae_title: bool
    max_associations: int

    def refuse(
        self, *, calling: str, called: str, open_associations: int, draining: bool
    ) -> Refusal | None:
        """Why this caller is refused; None: let in.

        Parameters
        ----------
        calling, called
            AE titles of the request; leading and trailing spaces have no meaning (PS3.5 6.2).
        open_associations
            Without this one.
        draining
            The receiver is about to stop: the caller may come again soon.
        """
        known = {title.strip() for title in self.calling_ae_titles}
        if known and calling.strip() not in known:
            return Refusal.CALLING_AE_TITLE_NOT_RECOGNIZED
        if self.require_called_ae_title and called.strip() != self.ae_title.strip():
            return Refusal.CALLED_AE_TITLE_NOT_RECOGNIZED
        if draining:
            return Refusal.TEMPORARY_CONGESTION
        if open_associations >= self.max_associations:
            return Refusal.LOCAL_LIMIT_EXCEEDED
        return None
