"""Manifests: CSV files with one row an image; and the tars of published sets that hold one."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import lzma
import shutil
import tarfile
import tempfile
import weakref
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import IO

from training.data.items import FloatArray, Item
from training.data.pictures import decode_picture
from training.errors import TrainingDataError

MANIFEST = "manifest.csv"
_NEEDED = ("path", "label")
_GROUPS = ("group", "patient_key", "group_id", "patient_id")
"""Columns that name the patient or document, the most specific first."""
TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_COMPRESSED: dict[bytes, Callable[[IO[bytes]], BufferedIOBase]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
"""By how a file begins."""
_UNREADABLE = (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError)
_NOBODY = frozenset({"unknown", "n/a", "na", "nan", "none", "null", "-", "?"})
"""In a group column: nothing is known."""
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
            group = "" if group.lower() in _NOBODY else group
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


def single_rows(
    items: Iterable[Item], name: str, key: Callable[[Item], Hashable]
) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """One item for each key, the first, and what is wrong with those that come again.

    Where two rows say different things of an image, neither counts.
    """
    first: dict[Hashable, Item] = {}
    problems: list[str] = []
    contradicted: set[Hashable] = set()
    for item in items:
        other = first.setdefault(key(item), item)
        if other is item:
            continue
        if (other.label, other.split) == (item.label, item.split):
            problems.append(f"{name}: {item.path}: named twice; keep one row")
        else:
            contradicted.add(key(item))
            told = ", ".join(f"{one.label} {one.split}".strip() for one in (other, item))
            problems.append(f"{name}: {item.path}: named twice, as {told}: neither counts")
    kept = (item for place, item in first.items() if place not in contradicted)
    return tuple(kept), tuple(problems)


class ManifestTar:
    """A tar, perhaps compressed, with `manifest.csv` and the images that it names.

    The manifest may lie in a folder, if there is no other; paths are relative to that.
    """

    def __init__(self, path: Path, group_column: str | None = None) -> None:
        self.name = tar_name(path)
        self._lock = Lock()
        try:
            # Kept open: members are read one at a time for as long as the source lives.
            file = _uncompressed(path)
            weakref.finalize(self, file.close)
            self._archive = tarfile.open(fileobj=file)  # noqa: SIM115
            members = {m.name.removeprefix("./"): m for m in self._archive}
        except _UNREADABLE as error:
            raise TrainingDataError(f"{path.name} is no readable tar: {error}") from error
        folder = _folder_of_manifest(members, path.name)
        inside = (name for name in members if name.startswith(folder))
        self._members = {name.removeprefix(folder): members[name] for name in inside}
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
        items = tuple(replace(item, path=PurePosixPath(item.path).as_posix()) for item in items)
        items, twice = single_rows(items, self.name, lambda item: item.path)
        self.items = tuple(replace(item, columns=self._stamped(item)) for item in items)
        self.problems = (*problems, *twice)

    def read(self, item: Item) -> FloatArray:
        """Gray image (rows, columns) float32."""
        if item.path not in self._members:
            raise TrainingDataError(f"{self.name}: {item.path} is named but not in the tar")
        return decode_picture(self._content(item.path), f"{self.name}: {item.path}")

    def _stamped(self, item: Item) -> Mapping[str, str]:
        """The item's columns with the SHA-256 of what is in the tar, whatever the manifest says."""
        try:
            digest = hashlib.sha256(self._content(item.path)).hexdigest()
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
            try:
                return file.read()
            except _UNREADABLE as error:
                raise TrainingDataError(f"{self.name}: {name} is cut off: {error}") from error


def tar_name(path: Path) -> str:
    """Name of a set whose tar this is; that of the file where it is none."""
    ending = next((end for end in TAR_ENDINGS if path.name.lower().endswith(end)), "")
    return path.name[: len(path.name) - len(ending)]


def _uncompressed(path: Path) -> IO[bytes]:
    """The tar itself, or what is in it: members are read in any order, and a compressed file only
    from its beginning."""
    with ExitStack() as unless_returned:
        file = unless_returned.enter_context(path.open("rb"))
        opener = next((one for magic, one in _COMPRESSED.items() if _begins(file, magic)), None)
        if opener is None:
            unless_returned.pop_all()
            return file
        plain = unless_returned.enter_context(tempfile.TemporaryFile())
        with opener(file) as packed:
            shutil.copyfileobj(packed, plain)
        unless_returned.pop_all()
    file.close()
    plain.seek(0)
    return plain


def _begins(file: IO[bytes], magic: bytes) -> bool:
    beginning = file.read(len(magic))
    file.seek(0)
    return beginning == magic


def _folder_of_manifest(members: Collection[str], tar: str) -> str:
    """`""` or the folder, with its slash, that holds the only manifest."""
    if MANIFEST in members:
        return ""
    inside = [name for name in members if name.endswith(f"/{MANIFEST}")]
    if len(inside) != 1:
        found = f"; it has {', '.join(inside)}, of which one must be chosen" if inside else ""
        raise TrainingDataError(f"{tar} has no {MANIFEST}{found}")
    return inside[0].removesuffix(MANIFEST)
