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


def refused_by_header(use: IntendedUse, source: Source, items: Sequence[Item]) -> int | None:
    """How many items lie outside an intended use by their header; None where none has a header."""
    if not isinstance(source, FileSource):
        return None
    headers = [_header(source.root, item) for item in items]
    stated = [header for header in headers if header is not None]
    return sum(bool(check_header(use, one).violations) for one in stated) if stated else None


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
