"""What the caller tells the report stage of the node and of the job; values only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

Kind = Literal["SR", "SC"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportContext:
    """Who reports, about which run, and which earlier results it replaces.

    Attributes
    ----------
    manufacturer, product_name, device_serial_number, node_version
        The node; at most 64 characters each.
    ae_title
        The node's AE title.
    series_number_base
        Series Number of results: base + 1 for the SR, base + 2 for the Secondary Capture.
    completed_at
        When the score was ready; aware. Written in the source's time zone if it states one
        (Timezone Offset From UTC), else in this value's own zone, which should be the site's.
    revision
        1 for the first set of images of a study, one more for each later set.
    input_digest
        SHA-256 over the images that were scored, hexadecimal.
    previous_sr, previous_sc
        Stored files of the results that these replace, or None.
    """

    manufacturer: str
    product_name: str
    device_serial_number: str
    node_version: str
    ae_title: str
    series_number_base: int
    completed_at: datetime
    revision: int
    input_digest: str
    previous_sr: Path | None = None
    previous_sc: Path | None = None

    def __post_init__(self) -> None:
        if self.completed_at.tzinfo is None:
            raise ValueError("completed_at must be an aware datetime")
        if self.revision < 1:
            raise ValueError("revision counts from 1")


@dataclass(frozen=True, slots=True)
class ResultObject:
    """One finished result: a Part 10 file, explicit VR little endian.

    Attributes
    ----------
    png
        The same picture as PNG for a Secondary Capture, None for an SR.
    """

    kind: Kind
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    content: bytes
    png: bytes | None
