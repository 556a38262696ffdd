"""Times in SQL that somebody waits for, robust against clocks that were set back.

A row written before the clock was set back lies further ahead than anybody ever waits. It counts
as past: better an attempt too early than one that comes an hour late.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Column, ColumnElement, or_

from dicom_node.domain.clock import LONGEST_LEASE, LONGEST_WAIT


def is_due(
    run_after: Column[datetime], attempts: Column[int], now: datetime
) -> ColumnElement[bool]:
    """Whether an attempt may start: the first one always, later ones when their wait is over."""
    return or_(attempts == 0, run_after <= now, run_after > now + LONGEST_WAIT)


def has_run_out(lease_until: Column[datetime], now: datetime) -> ColumnElement[bool]:
    """Whether a lease is over; rows without a lease are not, in SQL's sense of unknown."""
    return or_(lease_until <= now, lease_until > now + LONGEST_LEASE)
