"""Pictures and DICOM files that lie on disk and are named by a CSV file."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePath

from dicom_node.errors import BadInput
from training.data.dicom import DicomImage, dicom_images
from training.data.items import FloatArray, Item
from training.data.manifests import rows_to_items, single_rows
from training.data.pictures import decode_picture
from training.errors import TrainingDataError

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
"""Suffixes, in lower case, of what is decoded as a picture; any other file must be DICOM."""


class FileSource:
    """Files below a folder: pictures, DICOM files, and folders of CT series.

    Parameters
    ----------
    name
        For messages and reports.
    root
        What the paths of the items are relative to.
    rows
        One for each named file or folder. A series becomes one item for each chosen slice, named
        `PATH#PLACE`.
    problems
        What was wrong before the files were looked at.
    """

    def __init__(
        self, name: str, root: Path, rows: Iterable[Item], problems: Iterable[str] = ()
    ) -> None:
        self.name = name
        self.root = root
        self._dicom: dict[str, DicomImage] = {}
        self._faults: dict[str, str] = {}
        named = (replace(row, path=PurePath(row.path).as_posix()) for row in rows)
        once, twice = single_rows(named, name, lambda row: (root / row.path).resolve())
        self.items = tuple(item for row in once for item in self._found(row))
        self.problems = (*problems, *twice)

    def read(self, item: Item) -> FloatArray:
        """Image (rows, columns) float32: gray values of a picture, [0, 1] of a radiograph, HU."""
        name = f"{self.name}: {item.path}"
        if item.path in self._faults:
            raise TrainingDataError(self._faults[item.path])
        image = self._dicom.get(item.path)
        try:
            if image is None:
                return decode_picture((self.root / item.path).read_bytes(), name)
            return image.read()
        except OSError as error:
            raise TrainingDataError(f"{name} cannot be read ({error.strerror})") from error
        except TrainingDataError:
            raise
        except BadInput as error:
            raise TrainingDataError(f"{name}: {error}") from error

    def _found(self, row: Item) -> list[Item]:
        """The items of a row; the row itself where reading it will say what is wrong."""
        try:
            return self._items(row, self.root / row.path)
        except OSError as error:
            why = f" is named but cannot be read ({error.strerror})"
        except BadInput as error:
            why = f": {error}"
        self._faults[row.path] = f"{self.name}: {row.path}{why}"
        return [row]

    def _items(self, row: Item, path: Path) -> list[Item]:
        if path.suffix.lower() in PICTURES and not path.is_dir():
            return [_stamped(row, path)]
        path.stat()  # a missing file is no damaged DICOM file
        items = []
        for image in dicom_images(path):
            name = row.path if image.place is None else f"{row.path}#{image.place}"
            item = replace(row, path=name, group=row.group or image.group, units=image.units)
            self._dicom[name] = image
            items.append(_stamped(item, image.file))
        return items


def open_table(
    path: Path, *, group_column: str | None = None, name: str | None = None
) -> FileSource:
    """Read a CSV file with the columns path and label, and perhaps split, patient_id and others.

    Parameters
    ----------
    path
        Its rows name pictures, DICOM files or folders of one CT series, relative to its folder.
    group_column
        What must not be torn apart. Without any such column, DICOM is grouped by patient.
    name
        For messages and reports; by default that of the file.

    Raises
    ------
    TrainingDataError
        It cannot be read, or a needed column is missing.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark
        rows, problems = rows_to_items(io.StringIO(text), path.name, group_column)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainingDataError(f"{path.name} cannot be read as CSV in UTF-8: {error}") from error
    return FileSource(name or path.stem, path.parent, rows, problems)


def _stamped(item: Item, file: Path) -> Item:
    """The item with the SHA-256 of its file, by which prepared images are found again."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return replace(item, columns={**item.columns, "sha256": digest})
