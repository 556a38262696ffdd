"""A data set on its way in: memory is bounded, however large the object and however many come."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

IN_MEMORY_BYTES: Final = 8 << 20
"""A CT slice has 0.5 MB and never sees the disk twice; a large radiograph does, for a few ms."""


@dataclass(frozen=True, slots=True)
class Spool:
    """Where large data sets wait for their last fragment, and what is too large.

    Attributes
    ----------
    folder
        Holds unnamed files: they vanish with the process.
    maximum_object_bytes
        Longest data set that is taken.
    has_room
        Whether so many more bytes may be written to `folder`.
    """

    folder: Path
    maximum_object_bytes: int
    has_room: Callable[[int], bool]


class DataSetBuffer(BytesIO):
    """What pynetdicom collects a data set's fragments in.

    Attributes
    ----------
    refused
        Why the data set is not kept; its further bytes are dropped. None: all of it is here.
    """

    def __init__(self, spool: Spool) -> None:
        super().__init__()
        self.refused: str | None = None
        self._spool = spool
        self._size = 0
        self._file: int | None = None

    def write(self, piece: bytes, /) -> int:  # type: ignore[override]  # fragments are bytes
        """Add a fragment."""
        self._size += len(piece)
        if self.refused is not None:
            return len(piece)
        if self._size > self._spool.maximum_object_bytes:
            self._refuse("object is larger than dicom.maximum_object_bytes")
        elif self._file is None and self._size <= IN_MEMORY_BYTES:
            super().write(piece)
        else:
            self._spill(piece)
        return len(piece)

    def getbuffer(self) -> memoryview:
        """The whole data set, without a copy."""
        if self._file is None:
            return super().getbuffer()
        return memoryview(mmap.mmap(self._file, 0, access=mmap.ACCESS_READ))

    @property
    def size(self) -> int:
        """Bytes that have arrived, kept or not."""
        return self._size

    def _spill(self, piece: bytes) -> None:
        try:
            if not self._spool.has_room(len(piece)):
                self._refuse("free disk space is below dicom.minimum_free_bytes")
                return
            if self._file is None:
                self._file = _unnamed_file(self._spool.folder)
                weakref.finalize(self, os.close, self._file)
                _write_all(self._file, self.getvalue())
                self._empty_memory()
            _write_all(self._file, piece)
        except OSError as error:
            self._refuse(f"errno {error.errno}")

    def _refuse(self, reason: str) -> None:
        self.refused = reason
        self._empty_memory()
        if self._file is not None:
            os.ftruncate(self._file, 0)

    def _empty_memory(self) -> None:
        self.seek(0)
        self.truncate()


def _unnamed_file(folder: Path) -> int:
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.dup(file.fileno())


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
