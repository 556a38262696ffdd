"""What `check` says of one part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found about one part, and what to do if it is not well."""

    part: str
    state: Literal["ok", "warning", "failed"]
    found: str
    mend: str = ""
