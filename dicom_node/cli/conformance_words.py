"""Words and tables of the conformance statement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from pydicom.uid import UID


def name_of(uid: str) -> str:
    """What the standard calls a UID."""
    return UID(uid).name


def hex_of(status: int) -> str:
    """A status as the standard writes it."""
    return f"0x{status:04X}"


def bytes_of(count: int) -> str:
    """A size; 0 is none."""
    return f"{count:,} bytes".replace(",", " ") if count else "no limit"


def time_of(duration: timedelta) -> str:
    """A duration in seconds."""
    return f"{duration.total_seconds():g} s"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
