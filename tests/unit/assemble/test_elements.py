"""Reading a few elements at a cost that the data set cannot choose."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import pytest

from dicom_node.assemble import elements
from dicom_node.assemble.elements import Encoding, InflatedStream, PlainStream, excerpt
from dicom_node.errors import BadInput
from tests.faults.peers.peer import element, nested_sequences

EXPLICIT = Encoding(implicit=False, little_endian=True)
WANTED = {0x00080060, 0x00100020}
MODALITY = element(0x00080060, b"CS", b"CT")
PATIENT_ID = element(0x00100020, b"LO", b"P1")
OTHER = element(0x00080070, b"LO", b"Maker")
PIXELS = element(0x7FE00010, b"OW", bytes(8))
ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)


def plain(content: bytes) -> PlainStream:
    return PlainStream(BytesIO(content), len(content))


def deflated(content: bytes) -> InflatedStream:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return InflatedStream(BytesIO(packer.compress(content) + packer.flush()))


@pytest.mark.parametrize("stream", [plain, deflated])
@pytest.mark.parametrize(
    "between",
    [
        b"",
        nested_sequences(3, explicit_length=True),
        nested_sequences(3, explicit_length=False),
        # Of unknown VR and undefined length: its items are in implicit VR (PS3.5 6.2.2).
        element(0x00091010, b"UN", b"", length=0xFFFFFFFF)
        + ITEM
        + struct.pack("<HHL", 0x0010, 0x0020, 2)
        + b"XX"
        + struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0),
    ],
)
def test_only_what_is_wanted_on_the_outermost_level_comes_out(
    stream: Callable[[bytes], elements.Stream], between: bytes
) -> None:
    content = MODALITY + OTHER + between + PATIENT_ID + PIXELS + PATIENT_ID
    assert excerpt(stream(content), WANTED, EXPLICIT) == MODALITY + PATIENT_ID


def test_implicit_and_big_endian_are_read_too() -> None:
    implicit = struct.pack("<HHL", 0x0008, 0x0060, 2) + b"CT"
    encoding = Encoding(implicit=True, little_endian=True)
    assert excerpt(plain(implicit), WANTED, encoding) == implicit
    big = struct.pack(">HH2sH", 0x0008, 0x0060, b"CS", 2) + b"CT"
    assert excerpt(plain(big), WANTED, Encoding(implicit=False, little_endian=False)) == big


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (element(0x00080070, b"UT", b"x", length=0xFFFFFFF0), r"\(0008,0070\) claims 4294967280"),
        (MODALITY[:-1], r"\(0008,0060\) claims 2"),
        (nested_sequences(1000, explicit_length=False), "nested deeper than 64"),
    ],
)
def test_a_lie_is_refused_with_its_reason(content: bytes, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        excerpt(plain(content), WANTED, EXPLICIT)


def test_too_many_elements_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "MAXIMUM_ELEMENTS", 3)
    with pytest.raises(BadInput, match="more than 3 elements"):
        excerpt(plain(OTHER * 4), WANTED, EXPLICIT)


def test_a_bomb_is_given_up_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "MAXIMUM_INFLATED_BYTES", 1 << 20)
    bomb = element(0x00091010, b"OB", bytes(4 << 20)) + PATIENT_ID
    with pytest.raises(BadInput, match="inflates to more than"):
        excerpt(deflated(bomb), WANTED, EXPLICIT)


def test_an_overlong_value_counts_as_absent() -> None:
    long = element(0x00080060, b"UT", bytes(elements.MAXIMUM_VALUE_BYTES + 2))
    assert excerpt(plain(long + PATIENT_ID), WANTED, EXPLICIT) == PATIENT_ID
