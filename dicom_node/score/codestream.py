"""What compressed data claim about their size, found out before they are decoded."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from pydicom import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicom_node.errors import BadInput

MAXIMUM_INFLATED_BYTES = 1 << 30
_INFLATE_STEP = 1 << 20
_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_WRAPPER_BYTES = 4096
"""A JP2 wrapper, illegal but seen, ends within this many bytes."""


def check_codestream(frame: bytes, header: Dataset) -> int:
    """Compare the size in a JPEG or JPEG 2000 stream with the header; returns its precision."""
    claim = next(_claims(frame), None)
    if claim is None:
        raise BadInput("Pixel Data (7FE0,0010) holds no JPEG or JPEG 2000 codestream")
    rows, columns, precision, components = claim
    if (rows, columns) != (int(header.Rows), int(header.Columns)):
        raise BadInput(
            f"Pixel Data (7FE0,0010) holds a codestream of {rows} x {columns} where Rows "
            f"(0028,0010) and Columns (0028,0011) say {header.Rows} x {header.Columns}"
        )
    samples = int(header.get("SamplesPerPixel") or 1)
    if components != samples:
        raise BadInput(
            f"Pixel Data (7FE0,0010) holds a codestream of {components} components where Samples "
            f"per Pixel (0028,0002) says {samples}"
        )
    return precision


def _claims(frame: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield (rows, columns, precision, components).

    They are in SIZ (ISO 15444-1 A.5.1) or SOF (ISO 10918-1 B.2.2).
    """
    start = frame.find(b"\xff\x4f\xff\x51", 0, _WRAPPER_BYTES)
    if start >= 0:
        right, lower, left, top = struct.unpack_from(">4I", frame, start + 8)
        components = struct.unpack_from(">H", frame, start + 40)[0]
        yield lower - top, right - left, (frame[start + 42] & 0x7F) + 1, components
        return
    position = frame.find(b"\xff\xd8") + 2
    while 2 <= position < len(frame) - 9:
        if frame[position] != 0xFF or frame[position + 1] == 0xFF:
            position += 1
            continue
        marker, length = frame[position + 1], struct.unpack_from(">H", frame, position + 2)[0]
        if marker in _START_OF_FRAME:
            claim = struct.unpack_from(">BHHB", frame, position + 4)
            precision, rows, columns, components = claim
            yield rows, columns, precision, components
            return
        position += 2 + length


def bound_deflated(path: Path) -> None:
    """Refuse a deflated data set that would grow beyond `MAXIMUM_INFLATED_BYTES`."""
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    total = 0
    with path.open("rb") as file:
        # Preamble, prefix, and the group length element with the length that it states.
        file.seek(128 + 4 + 12 + int(meta.FileMetaInformationGroupLength))
        pending = file.read()
    while pending and not inflater.eof:
        total += len(inflater.decompress(pending, _INFLATE_STEP))
        pending = inflater.unconsumed_tail
        if total > MAXIMUM_INFLATED_BYTES:
            raise BadInput(f"the deflated data set exceeds {MAXIMUM_INFLATED_BYTES} bytes")
