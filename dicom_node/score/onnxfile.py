"""Which other files an ONNX file reads: found in its bytes, before any runtime opens it.

ONNX is a Protocol Buffers message (onnx/onnx.proto) and a tensor in it may be a region of another
file. Only the fields that lead to such tensors are followed; all others are skipped unread.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from dicom_node.errors import ModelError

# Message -> field number -> the message in that field.
_CHILDREN = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
_KEY, _VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
_DEEPEST = 100


def external_files(path: Path) -> frozenset[str]:
    """Locations of the external tensors of an ONNX file, as the file states them.

    Raises
    ------
    ModelError
        The file is no Protocol Buffers message.
    """
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return frozenset(_locations(content, "Model", 0, len(content), 0))
        # An empty file cannot be mapped, a damaged one ends inside a field.
        except (ValueError, IndexError) as error:
            raise ModelError("it is not readable as ONNX") from error


def _locations(content: mmap.mmap, message: str, at: int, end: int, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise ValueError("nested too deep")
    for field, start, stop in _fields(content, at, end):
        child = _CHILDREN[message].get(field)
        if child == "Entry":
            key, value = _entry(content, start, stop)
            if key == b"location":
                yield value.decode("utf-8", "backslashreplace")
        elif child is not None:
            yield from _locations(content, child, start, stop, depth + 1)


def _entry(content: mmap.mmap, at: int, end: int) -> tuple[bytes, bytes]:
    parts = {field: content[start:stop] for field, start, stop in _fields(content, at, end)}
    return parts.get(_KEY, b""), parts.get(_VALUE, b"")


def _fields(content: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and stop of every length-delimited field of a message."""
    while at < end:
        tag, at = _varint(content, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(content, at)
        elif kind == _BYTES:
            length, at = _varint(content, at)
            if at + length > end:
                raise ValueError("a field ends outside its message")
            yield tag >> 3, at, at + length
            at += length
        elif kind in {_FIXED64, _FIXED32}:
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("unknown wire type")


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(_LONGEST_VARINT):
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, at
    raise ValueError("a number is too long")
