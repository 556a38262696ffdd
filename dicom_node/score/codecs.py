"""Stored pixel values of one frame, for every transfer syntax that the node accepts.

Each compressed syntax has one decoder chosen here; nothing depends on which plugins happen to be
installed. What a codestream claims about its size is checked before anything is decoded.
"""

from __future__ import annotations

import struct
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.errors import InvalidDicomError
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from dicom_node.errors import BadInput

MAXIMUM_PIXELS = 64_000_000
"""Largest frame: 8000 x 8000, twice the largest detector; bounds what a lying header can cost."""
MAXIMUM_INFLATED_BYTES = 1 << 30
_INFLATE_STEP = 1 << 20

_NATIVE = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian}
_PLUGINS = {
    JPEGBaseline8Bit: "pillow",
    JPEGExtended12Bit: "pillow",
    JPEGLossless: "gdcm",
    JPEGLosslessSV1: "gdcm",
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    JPEG2000Lossless: "pylibjpeg",
    JPEG2000: "pylibjpeg",
    HTJ2KLossless: "pylibjpeg",
    HTJ2KLosslessRPCL: "pylibjpeg",
    HTJ2K: "pylibjpeg",
    RLELossless: "pylibjpeg",
}
_DECODER_ERRORS = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    RuntimeError,
    NotImplementedError,
    OSError,
    EOFError,
    struct.error,
    zlib.error,
    MemoryError,
    InvalidDicomError,
    Image.DecompressionBombError,
)
_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_BASELINE_BITS = 8
_WRAPPER_BYTES = 4096
"""A JP2 wrapper, illegal but seen, ends within this many bytes."""


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """One frame as stored.

    Attributes
    ----------
    values
        (rows, columns) integers; overlay bits removed, sign extended.
    header
        The data set without its pixel data.
    """

    values: NDArray[Any]
    header: Dataset


def read_header(path: Path) -> Dataset:
    """Read a Part 10 file up to its pixel data.

    Raises
    ------
    BadInput
        Not a DICOM file, or damaged before the pixel data.
    """
    try:
        _bound_deflated(path)
        return pydicom.dcmread(path, stop_before_pixels=True)
    except _DECODER_ERRORS as error:
        raise BadInput(f"the file is not readable as DICOM: {_reason(error)}") from error


def read_stored(path: Path, frame_number: int | None = None) -> StoredFrame:
    """Decode one frame to its stored values.

    Parameters
    ----------
    path
        A Part 10 file.
    frame_number
        1-based frame of a multi-frame file; None for the first.

    Raises
    ------
    BadInput
        No or damaged pixel data, a header that contradicts it, a colour image, an unknown syntax.
    """
    header = read_header(path)
    index = (frame_number or 1) - 1
    _check_header(header, index)
    syntax = UID(str(header.file_meta.get("TransferSyntaxUID", "")))
    try:
        values = _decode(path, header, syntax, index)
    except BadInput:
        raise
    except _DECODER_ERRORS as error:
        raise BadInput(
            f"Pixel Data (7FE0,0010) cannot be decoded as {syntax.name}: {_reason(error)}"
        ) from error
    expected = (int(header.Rows), int(header.Columns))
    if values.shape != expected:
        raise BadInput(
            f"Pixel Data (7FE0,0010) holds {values.shape} where Rows (0028,0010) and "
            f"Columns (0028,0011) say {expected}"
        )
    return StoredFrame(values, header)


def _decode(path: Path, header: Dataset, syntax: UID, index: int) -> NDArray[Any]:
    if syntax in _NATIVE:
        stored = pixel_array(path, index=index, raw=True, correct_unused_bits=False)
        return _gray(_clean_bits(stored, header), header)
    if syntax == DeflatedExplicitVRLittleEndian:
        data = pydicom.dcmread(path)
        stored = pixel_array(data, index=index, raw=True, correct_unused_bits=False)
        return _gray(_clean_bits(stored, header), header)
    plugin = _PLUGINS.get(syntax)
    if plugin is None:
        raise BadInput(
            f"Transfer Syntax UID (0002,0010) {syntax.name!r} is not supported; ask the sender for "
            "Explicit VR Little Endian"
        )
    if syntax == RLELossless:
        stored = pixel_array(
            path, index=index, raw=True, decoding_plugin=plugin, correct_unused_bits=False
        )
        return _gray(_clean_bits(stored, header), header)
    frame = _encapsulated_frame(path, header, index)
    precision = _check_codestream(frame, header)
    if syntax == JPEGExtended12Bit and precision > _BASELINE_BITS:
        return _decode_extended(frame, header)
    color = int(header.SamplesPerPixel) != 1
    stored = pixel_array(path, index=index, raw=not color, decoding_plugin=plugin)
    return _gray(stored, header)


def _check_header(header: Dataset, index: int) -> None:
    """Refuse what cannot be a monochrome frame of sane size, naming the attribute."""
    rows, columns = _number(header, "Rows"), _number(header, "Columns")
    if rows < 1 or columns < 1 or rows * columns > MAXIMUM_PIXELS:
        raise BadInput(
            f"Rows (0028,0010) x Columns (0028,0011) is {rows} x {columns}; 1 to "
            f"{MAXIMUM_PIXELS} pixels can be scored"
        )
    photometric = str(header.get("PhotometricInterpretation", "")).strip()
    samples = _number(header, "SamplesPerPixel", 1)
    monochrome = photometric in {"MONOCHROME1", "MONOCHROME2"}
    if photometric == "PALETTE COLOR" or monochrome != (samples == 1) or samples not in {1, 3}:
        raise BadInput(
            f"Photometric Interpretation (0028,0004) {photometric!r} with {samples} samples per "
            "pixel is not a radiograph or CT slice; MONOCHROME1 or MONOCHROME2 with one is"
        )
    allocated, bits = _number(header, "BitsAllocated"), _number(header, "BitsStored")
    if allocated not in {8, 16} or not 1 <= bits <= allocated:
        raise BadInput(
            f"Bits Allocated (0028,0100) {allocated} with Bits Stored (0028,0101) {bits} cannot be "
            "scored; 8 or 16 bits allocated can"
        )
    frames = _number(header, "NumberOfFrames", 1)
    if not 0 <= index < frames:
        raise BadInput(f"frame {index + 1} is asked for, Number of Frames (0028,0008) is {frames}")


def _number(header: Dataset, keyword: str, default: int = 0) -> int:
    value = header.get(keyword)
    try:
        return default if value in {None, ""} else int(value)
    except (TypeError, ValueError):
        return 0


def _clean_bits(values: NDArray[Any], header: Dataset) -> NDArray[Any]:
    """Drop bits outside Bits Stored (old overlays live there, PS3.3 C.9.2) and extend the sign."""
    allocated, bits = int(header.BitsAllocated), int(header.BitsStored)
    high = int(header.get("HighBit", bits - 1))
    if bits == allocated or not bits - 1 <= high < allocated:
        return values
    return (values << (allocated - 1 - high)) >> (allocated - bits)


def _gray(values: NDArray[Any], header: Dataset) -> NDArray[Any]:
    """Accept three samples only if they say the same, as gray pictures saved in colour do."""
    if int(header.get("SamplesPerPixel", 1)) == 1:
        return values
    luminance_first = str(header.PhotometricInterpretation).startswith("YBR")
    reference = 128 if luminance_first and _chroma_flat(values) else None
    spread = np.ptp(values.astype(np.int32), axis=-1).max() if reference is None else 0
    if spread > _COLOR_TOLERANCE:
        raise BadInput(
            f"Photometric Interpretation (0028,0004) {header.PhotometricInterpretation!r}: the "
            "image is in colour; radiographs and CT slices are monochrome"
        )
    return values[..., 0]


_COLOR_TOLERANCE = 2
"""Rounding of a colour conversion, in 8-bit steps."""


def _chroma_flat(values: NDArray[Any]) -> bool:
    chroma = values[..., 1:].astype(np.int32) - 128
    return bool(np.abs(chroma).max() <= _COLOR_TOLERANCE)


def _encapsulated_frame(path: Path, header: Dataset, index: int) -> bytes:
    """The codestream of one frame."""
    data = pydicom.dcmread(path, specific_tags=["PixelData", "NumberOfFrames"])
    if "PixelData" not in data:
        raise BadInput("Pixel Data (7FE0,0010) is absent")
    frames = _number(header, "NumberOfFrames", 1)
    return get_frame(data.PixelData, index, number_of_frames=frames)


def _check_codestream(frame: bytes, header: Dataset) -> int:
    """Compare the size in a JPEG or JPEG 2000 stream with the header; returns its precision."""
    claim = next(_claims(frame), None)
    if claim is None:
        raise BadInput("Pixel Data (7FE0,0010) holds no JPEG or JPEG 2000 codestream")
    rows, columns, precision = claim
    if (rows, columns) != (int(header.Rows), int(header.Columns)):
        raise BadInput(
            f"Pixel Data (7FE0,0010) holds a codestream of {rows} x {columns} where Rows "
            f"(0028,0010) and Columns (0028,0011) say {header.Rows} x {header.Columns}"
        )
    return precision


def _claims(frame: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (rows, columns, precision) from SIZ (ISO 15444-1 A.5.1) or SOF (ISO 10918-1 B.2.2)."""
    start = frame.find(b"\xff\x4f\xff\x51", 0, _WRAPPER_BYTES)
    if start >= 0:
        right, lower, left, top = struct.unpack_from(">4I", frame, start + 8)
        yield lower - top, right - left, (frame[start + 42] & 0x7F) + 1
        return
    position = frame.find(b"\xff\xd8") + 2
    while 2 <= position < len(frame) - 9:
        if frame[position] != 0xFF or frame[position + 1] == 0xFF:
            position += 1
            continue
        marker, length = frame[position + 1], struct.unpack_from(">H", frame, position + 2)[0]
        if marker in _START_OF_FRAME:
            precision, rows, columns = struct.unpack_from(">BHH", frame, position + 4)
            yield rows, columns, precision
            return
        position += 2 + length


def _decode_extended(frame: bytes, header: Dataset) -> NDArray[Any]:
    """Decode 12-bit JPEG Extended with SimpleITK from a file that holds nothing else.

    SimpleITK inverts MONOCHROME1 and applies the rescale on reading; the small file declares
    neither, so that stored values come back.
    """
    plain = Dataset()
    plain.file_meta = FileMetaDataset()
    plain.file_meta.TransferSyntaxUID = JPEGExtended12Bit
    plain.file_meta.MediaStorageSOPClassUID = plain.SOPClassUID = CTImageStorage
    plain.file_meta.MediaStorageSOPInstanceUID = plain.SOPInstanceUID = UID("2.25.1")
    for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation"):
        setattr(plain, keyword, int(header.get(keyword, 0)))
    plain.HighBit = plain.BitsStored - 1
    plain.SamplesPerPixel, plain.PhotometricInterpretation = 1, "MONOCHROME2"
    plain.PixelData = encapsulate([frame])
    plain["PixelData"].VR = "OB"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.dcm"
        plain.save_as(path, enforce_file_format=True)
        values: NDArray[Any] = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return values.reshape(values.shape[-2:])


def _bound_deflated(path: Path) -> None:
    """Refuse a deflated data set that would grow beyond `MAXIMUM_INFLATED_BYTES`."""
    meta = pydicom.filereader.read_file_meta_info(path)
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


def _reason(error: BaseException) -> str:
    """First line of a library's error, short; decoders quote sizes and markers, never patients."""
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__
