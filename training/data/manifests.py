"""Manifests: CSV files with one row an image; and the tars of published sets that hold one."""

from __future__ import annotations

import csv
import hashlib
import io
import tarfile
import weakref
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock

from training.data.items import FloatArray, Item
from training.data.pictures import decode_picture
from training.errors import TrainingDataError

MANIFEST = "manifest.csv"
_NEEDED = ("path", "label")
_GROUPS = ("group", "patient_key", "group_id", "patient_id")
"""Columns that name the patient or document, the most specific first."""
SPLIT_NAMES = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


def rows_to_items(
    lines: Iterable[str], source: str, group_column: str | None
) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """Items of a manifest or table, and what is wrong with single rows.

    Raises
    ------
    TrainingDataError
        A needed column is missing.
    """
    reader = csv.DictReader(lines)
    header = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = header
    missing = [name for name in _NEEDED if name not in header]
    if group_column is not None and group_column not in header:
        missing.append(group_column)
    if missing:
        raise TrainingDataError(
            f"{source}: column {', '.join(missing)} is missing; the first line must name the "
            f"columns, at least {' and '.join(_NEEDED)}{_hint(header)}"
        )
    # Spreadsheets end lines with empty columns.
    twice = sorted(name for name, count in Counter(header).items() if name and count > 1)
    if twice:
        raise TrainingDataError(f"{source}: column {', '.join(twice)} is named twice; keep one")
    grouping = group_column or usual_group_column(header)
    items: list[Item] = []
    problems: list[str] = []
    for cells in reader:
        # Spreadsheets leave blanks that nobody sees.
        row = {name: value.strip() for name, value in cells.items() if isinstance(value, str)}
        if None in cells or len(row) < len(set(header)):
            problems.append(f"{source} line {reader.line_num}: not {len(header)} columns")
        elif not row["path"]:
            problems.append(f"{source} line {reader.line_num}: a label without an image")
        elif not row["label"]:
            problems.append(f"{source} line {reader.line_num}: {row['path']} has no label")
        else:
            written, group = row.get("split", ""), row[grouping] if grouping else ""
            # Other words are kept: one can judge by such pictures, not learn from them.
            split = SPLIT_NAMES.get(written.lower(), written)
            items.append(Item(row["path"], row["label"], split, group, row))
    return tuple(items), tuple(problems)


def usual_group_column(columns: Collection[str]) -> str | None:
    """The column that names the patient or document where nobody chose one."""
    return next((name for name in _GROUPS if name in columns), None)


def _hint(header: Sequence[str]) -> str:
    """What is odd about a first line; it is not repeated, as it may be a patient's."""
    if len(header) == 1 and any(separator in header[0] for separator in ";\t|"):
        return ", separated by commas"
    if set(_NEEDED) <= {name.lower() for name in header}:
        return ", in small letters"
    return ""


class ManifestTar:
    """An uncompressed tar with `manifest.csv` and the images that it names."""

    def __init__(self, path: Path, group_column: str | None = None) -> None:
        self.name = path.name.removesuffix(".tar")
        self._lock = Lock()
        try:
            # Kept open: members are read one at a time for as long as the source lives.
            self._archive = tarfile.open(path)  # noqa: SIM115
            weakref.finalize(self, self._archive.close)
            self._members = {m.name.removeprefix("./"): m for m in self._archive}
        except (OSError, tarfile.TarError) as error:
            raise TrainingDataError(f"{path.name} is no readable tar: {error}") from error
        if MANIFEST not in self._members:
            raise TrainingDataError(f"{path.name} has no {MANIFEST}")
        try:
            text = self._content(MANIFEST).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise TrainingDataError(f"{path.name}: {MANIFEST} is not UTF-8") from error
        try:
            items, problems = rows_to_items(
                io.StringIO(text), f"{path.name}: {MANIFEST}", group_column
            )
        except csv.Error as error:
            raise TrainingDataError(f"{path.name}: {MANIFEST} is no CSV: {error}") from error
        stamped: dict[str, Item] = {}
        twice = []
        for item in items:
            name = item.path.removeprefix("./")
            if name in stamped:
                twice.append(f"{self.name}: {name}: named twice; keep one row")
            else:
                stamped[name] = replace(item, path=name, columns=self._stamped(name, item))
        self.items, self.problems = tuple(stamped.values()), (*problems, *twice)

    def read(self, item: Item) -> FloatArray:
        """Gray image (rows, columns) float32."""
        if item.path not in self._members:
            raise TrainingDataError(f"{self.name}: {item.path} is named but not in the tar")
        return decode_picture(self._content(item.path), f"{self.name}: {item.path}")

    def _stamped(self, name: str, item: Item) -> Mapping[str, str]:
        """The item's columns with the SHA-256 of what is in the tar, whatever the manifest says."""
        try:
            digest = hashlib.sha256(self._content(name)).hexdigest()
        except (KeyError, TrainingDataError):
            return item.columns  # reading it says what is wrong
        return {**item.columns, "sha256": digest}

    def _content(self, name: str) -> bytes:
        with self._lock:
            try:
                file = self._archive.extractfile(self._members[name])
            except KeyError:  # a link to what is not there
                file = None
            if file is None:
                raise TrainingDataError(f"{self.name}: {name} is no file")
            return file.read()
