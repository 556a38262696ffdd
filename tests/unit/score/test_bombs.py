"""Small files that claim to be huge are refused before anything is allocated for them."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import UID, CTImageStorage, JPEG2000Lossless, JPEGLosslessSV1, RLELossless

from dicom_node.errors import BadInput
from dicom_node.score.codecs import read_stored
from dicom_node.score.volume import build_volume
from tests.unit.score.synthetic import Write

MOST_BYTES = 50_000_000
PICTURE = np.zeros((64, 64), np.uint16)


def j2k(rows: int, columns: int, components: int = 1) -> bytes:
    """The head of a JPEG 2000 codestream (ISO 15444-1 A.5.1) and nothing behind it."""
    size = struct.pack(">HIIIIIIIIH", 0, columns, rows, 0, 0, columns, rows, 0, 0, components)
    size += b"\x0f\x01\x01" * components
    return b"\xff\x4f\xff\x51" + struct.pack(">H", len(size) + 2) + size


def jpeg(rows: int, columns: int, components: int = 1) -> bytes:
    """The head of a lossless JPEG (ISO 10918-1 B.2.2)."""
    frame = struct.pack(">BHHB", 16, rows, columns, components) + b"\x01\x11\x00" * components
    return b"\xff\xd8\xff\xc3" + struct.pack(">H", len(frame) + 2) + frame + b"\xff\xd9"


def compressed(stream: bytes, syntax: UID) -> Callable[[Write], Path]:
    def make(write: Write) -> Path:
        path = write(PICTURE)
        data = dcmread(path)
        data.file_meta.TransferSyntaxUID = syntax
        data.PixelData = encapsulate([stream])
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
        data.save_as(path)
        return path

    return make


def header(**claims: Any) -> Callable[[Write], Path]:
    return lambda write: write(PICTURE, **claims)


BOMBS = {
    "rows and columns": header(Rows=65535, Columns=65535),
    "rows beyond the pixel data": header(Rows=7000, Columns=7000),
    "JPEG 2000 larger than the header": compressed(j2k(2**31, 2**31), JPEG2000Lossless),
    "JPEG 2000 of 16,000 components": compressed(j2k(64, 64, 16000), JPEG2000Lossless),
    "JPEG larger than the header": compressed(jpeg(65535, 65535), JPEGLosslessSV1),
    "JPEG of 255 components": compressed(jpeg(64, 64, 255), JPEGLosslessSV1),
    "RLE of nothing": compressed(struct.pack("<16I", 2, 64, 2**31, *[0] * 13), RLELossless),
}


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS.keys())
def test_a_picture_that_claims_to_be_huge_is_refused(
    make: Callable[[Write], Path], write: Write
) -> None:
    path = make(write)
    tracemalloc.start()
    try:
        with pytest.raises(BadInput):
            read_stored(path)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


def test_a_series_that_claims_billions_of_frames_is_refused(write: Write) -> None:
    path = write(PICTURE, Modality="CT", SOPClassUID=CTImageStorage, NumberOfFrames=2_000_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(BadInput, match=r"Number of Frames \(0028,0008\) is 2000000000"):
            build_volume([path])
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
