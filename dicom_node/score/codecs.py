"""Stored pixel values of one frame, for every transfer syntax that the node accepts.

Each compressed syntax has one decoder chosen here; nothing depends on which plugins happen to be
installed. What a codestream claims about its size is checked before anything is decoded.
"""

from __future__ import annotations

import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
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
from dicom_node.score.codestream import bound_deflated, check_codestream
from dicom_node.score.damage import damage_as_bad_input

MAXIMUM_PIXELS = 64_000_000
"""Largest frame: 8000 x 8000, twice the largest detector; bounds what a lying header can cost."""

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
_BASELINE_BITS = 8
# Without it pyjpegls reads on for ever; what follows it is padding of the fragment.
_END_OF_IMAGE, _TRAILING_BYTES = b"\xff\xd9", 4
_ELEMENT_HEADER = struct.Struct("<HH2s2xI")
_PIXELS = (0x7FE0, 0x0010)


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
    with damage_as_bad_input("the file is not readable as DICOM"):
        bound_deflated(path)
        return pydicom.dcmread(path, stop_before_pixels=True)


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
    with damage_as_bad_input("the description of the pixels is damaged"):
        _check_header(header, index)
    syntax = UID(str(header.file_meta.get("TransferSyntaxUID", "")))
    with damage_as_bad_input(f"Pixel Data (7FE0,0010) cannot be decoded as {syntax.name}"):
        values = _decode(path, header, syntax, index)
    expected = (int(header.Rows), int(header.Columns))
    if values.shape != expected:
        raise BadInput(
            f"Pixel Data (7FE0,0010) holds {values.shape} where Rows (0028,0010) and "
            f"Columns (0028,0011) say {expected}"
        )
    return StoredFrame(values, header)


def _decode(path: Path, header: Dataset, syntax: UID, index: int) -> NDArray[Any]:
    if syntax in _NATIVE or syntax == DeflatedExplicitVRLittleEndian:
        if syntax in _NATIVE:
            _check_length(path, header, index)
        source = path if syntax in _NATIVE else pydicom.dcmread(path)
        stored = pixel_array(source, index=index, raw=True, correct_unused_bits=False)
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
    frame = _encapsulated_frame(path, index)
    precision = check_codestream(frame, header)
    if plugin == "pyjpegls" and _END_OF_IMAGE not in frame[-_TRAILING_BYTES:]:
        raise BadInput("Pixel Data (7FE0,0010) holds a JPEG-LS codestream that is cut off")
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


def _check_length(path: Path, header: Dataset, index: int) -> None:
    """Refuse a frame that is longer than its file before memory is taken for it."""
    pixels = int(header.Rows) * int(header.Columns) * _number(header, "SamplesPerPixel", 1)
    if (index + 1) * pixels * (int(header.BitsAllocated) // 8) > path.stat().st_size:
        raise BadInput(
            "Pixel Data (7FE0,0010) is absent or shorter than Rows (0028,0010) x Columns "
            "(0028,0011)"
        )


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


def _encapsulated_frame(path: Path, index: int) -> bytes:
    """The codestream of one frame, without reading the others."""
    with path.open("rb") as file:
        header = pydicom.dcmread(file, stop_before_pixels=True)
        # Explicit VR little endian (PS3.5 A.4): tag, VR, two reserved bytes, undefined length.
        element = file.read(_ELEMENT_HEADER.size)
        if len(element) < _ELEMENT_HEADER.size or _ELEMENT_HEADER.unpack(element)[:2] != _PIXELS:
            raise BadInput("Pixel Data (7FE0,0010) is absent")
        offsets = None
        if header.get("ExtendedOffsetTable") and header.get("ExtendedOffsetTableLengths"):
            offsets = (header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths)
        frames = _number(header, "NumberOfFrames", 1)
        return get_frame(file, index, extended_offsets=offsets, number_of_frames=frames)


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
