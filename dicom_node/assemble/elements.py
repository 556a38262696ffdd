"""The few elements that are wanted from a data set, at a cost that the data set cannot choose.

A general reader builds an object for every item of every sequence, descends as deep as they are
nested and inflates what is deflated in one piece: a file of a few megabytes can cost gigabytes.
This one walks over the elements (PS3.5 section 7), skips what is not wanted and gives up early.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import BinaryIO, Final, Protocol

from dicom_node.errors import BadInput

MAXIMUM_ELEMENTS: Final = 1_000_000
"""An enhanced CT of 5,000 frames has less than half of it."""
MAXIMUM_DEPTH: Final = 64
"""Structured reports nest to a dozen levels; two for each, a sequence and its item."""
MAXIMUM_VALUE_BYTES: Final = 1 << 16
"""A longer value counts as absent: nothing that rules or identity ask about is that long."""
MAXIMUM_INFLATED_BYTES: Final = 1 << 28
"""Of a deflated data set before its pixel data; ten times the largest header that is not a lie."""

_UNDEFINED: Final = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXELS: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_LONG_VRS: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_INFLATE_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a data set is written: PS3.5 annex A."""

    implicit: bool
    little_endian: bool


class Stream(Protocol):
    """Bytes that are read once, from front to back."""

    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end."""

    def skip(self, count: int) -> bool:
        """Leave out the next `count` bytes; False: there are not so many."""


class PlainStream:
    """A file from its present position on."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end."""
        return self._file.read(count)

    def skip(self, count: int) -> bool:
        """Leave out the next `count` bytes; False: there are not so many."""
        return self._file.seek(count, 1) <= self._size


class InflatedStream:
    """What a raw deflate stream (PS3.5 annex A.5) holds, a little of it in memory at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._ready = b""
        self._inflated = 0

    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end.

        Raises
        ------
        BadInput
            More than `MAXIMUM_INFLATED_BYTES` have come out.
        zlib.error
            Not a deflate stream.
        """
        pieces = []
        while count and (piece := self._next(count)):
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def skip(self, count: int) -> bool:
        """Leave out the next `count` bytes; False: there are not so many."""
        while count and (piece := self._next(count)):
            count -= len(piece)
        return not count

    def _next(self, most: int) -> bytes:
        while not self._ready and not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._file.read(_INFLATE_BYTES)
            if not packed:
                break
            self._ready = self._inflater.decompress(packed, _INFLATE_BYTES)
            self._inflated += len(self._ready)
            if self._inflated > MAXIMUM_INFLATED_BYTES:
                raise BadInput(f"its header inflates to more than {MAXIMUM_INFLATED_BYTES} bytes")
        piece, self._ready = self._ready[:most], self._ready[most:]
        return piece


def excerpt(stream: Stream, wanted: Collection[int], encoding: Encoding) -> bytes:
    """Copy the wanted elements of the outermost level that come before the pixel data.

    Parameters
    ----------
    wanted
        Tags, as 32-bit numbers. Sequences and over-long values are left out.

    Returns
    -------
    bytes
        A data set in the same encoding.

    Raises
    ------
    BadInput
        An element claims more bytes than there are, or there are too many or too deep ones.
    zlib.error
        Not a deflate stream.
    """
    kept: list[bytes] = []
    levels = [encoding]  # a private sequence of unknown VR is written in another encoding
    for _ in range(MAXIMUM_ELEMENTS):
        element = _next_element(stream, levels[-1])
        if element is None or (len(levels) == 1 and element.tag in _PIXELS):
            return b"".join(kept)
        if element.tag in {_ITEM_END, _SEQUENCE_END}:
            if len(levels) > 1:
                levels.pop()
        elif element.length == _UNDEFINED:
            levels.append(_inner_encoding(element, levels[-1]))
            if len(levels) > MAXIMUM_DEPTH * 2:
                raise BadInput(f"sequences are nested deeper than {MAXIMUM_DEPTH} levels")
        elif len(levels) == 1 and _is_wanted(element, wanted):
            kept.append(element.head + _value(stream, element))
        elif not stream.skip(element.length):
            raise _cut_off(element)
    raise BadInput(f"there are more than {MAXIMUM_ELEMENTS} elements before the pixel data")


@dataclass(frozen=True, slots=True)
class _Element:
    tag: int
    vr: bytes | None
    length: int
    head: bytes


def _next_element(stream: Stream, encoding: Encoding) -> _Element | None:
    order = "<" if encoding.little_endian else ">"
    head = stream.read(8)
    if len(head) < 8:
        return None
    group, number, length = struct.unpack(f"{order}HHL", head)
    tag = group << 16 | number
    vr = head[4:6]
    # Some writers fall back to implicit VR inside explicit data sets: the VR is no letters then.
    if encoding.implicit or group == 0xFFFE or not (vr.isalpha() and vr.isupper()):
        return _Element(tag, None, length, head)
    if vr not in _LONG_VRS:
        return _Element(tag, vr, struct.unpack(f"{order}H", head[6:])[0], head)
    more = stream.read(4)
    if len(more) < 4:
        return None
    return _Element(tag, vr, struct.unpack(f"{order}L", more)[0], head + more)


def _inner_encoding(element: _Element, outer: Encoding) -> Encoding:
    """Of unknown VR and undefined length is a sequence in implicit VR (PS3.5 section 6.2.2)."""
    return Encoding(implicit=True, little_endian=True) if element.vr == b"UN" else outer


def _is_wanted(element: _Element, wanted: Collection[int]) -> bool:
    short = element.length <= MAXIMUM_VALUE_BYTES
    return element.tag in wanted and short and element.vr != b"SQ"


def _value(stream: Stream, element: _Element) -> bytes:
    value = stream.read(element.length)
    if len(value) < element.length:
        raise _cut_off(element)
    return value


def _cut_off(element: _Element) -> BadInput:
    return BadInput(
        f"({element.tag >> 16:04X},{element.tag & 0xFFFF:04X}) claims {element.length} bytes, the "
        "data set ends before; send the image again"
    )
