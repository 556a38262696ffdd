"""What the node would say to the DICOM headers of pictures, before it looks at any pixel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydicom import Dataset

from dicom_node.score.manifest import IntendedUse
from dicom_node.score.pixels import read_header
from dicom_node.score.quality import check_header
from training.data import Item, Source
from training.data.tables import PICTURES, FileSource


def headers_of(source: Source, items: Sequence[Item]) -> list[Dataset]:
    """Header of each item that has one; none of pictures."""
    if not isinstance(source, FileSource):
        return []
    headers = (_header(source.root, item) for item in items)
    return [header for header in headers if header is not None]


def refused(use: IntendedUse, headers: Sequence[Dataset]) -> int:
    """How many images lie outside an intended use by their header."""
    return sum(bool(check_header(use, header).violations) for header in headers)


def _header(root: Path, item: Item) -> Dataset | None:
    """Header of the file, or of a file of the series, that an item lies in; None for a picture."""
    place = root / item.path
    if place.suffix.lower() in PICTURES:
        return None
    if not place.exists():
        # A slice is named by its series and its place in it.
        place = root / item.path.rpartition("#")[0]
    if place.is_dir():
        files = (file for file in sorted(place.iterdir()) if file.is_file())
        place = next(file for file in files if file.name[0] != "." and file.name != "DICOMDIR")
    return read_header(place)
