"""Where every slice of a CT series lies: headers read once and normalised once.

A classic file gives one `SliceHeader`, an Enhanced CT file one for each frame. What is absent,
empty or malformed becomes None here, so that nobody behind this module meets it again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from dicom_node.errors import BadInput, short_uid
from dicom_node.score.damage import damage_as_bad_input

_TAGS = [
    "SOPInstanceUID",
    "InstanceNumber",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceLocation",
    "SliceThickness",
    "SpacingBetweenSlices",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "FrameOfReferenceUID",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]

PIXEL_SPACING_MM = (0.05, 5.0)
"""Pixels of a clinical CT are between these; anything else is a mistake in the header."""
MAXIMUM_FRAMES = 10_000
"""Four times the longest chest CT; a header that claims more would be unrolled for nothing."""
UNIT_TOLERANCE = 0.01
"""How far direction cosines may be from unit length and from a right angle (writers round them)."""


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """One CT slice as its header describes it; None is what the header does not say.

    Attributes
    ----------
    path
        File that holds the slice.
    sop_instance_uid, instance_number
        Of the file; the frames of one file share them.
    frame_number
        1-based frame of a multi-frame file, else None.
    rows, columns
        Matrix size in pixels.
    position
        Image Position (Patient): centre of the first pixel, mm, (x, y, z).
    orientation
        Image Orientation (Patient): direction of increasing column index, then of increasing row
        index; orthonormal within `UNIT_TOLERANCE`.
    pixel_spacing
        (between rows, between columns) in mm, both within `PIXEL_SPACING_MM`.
    slice_location
        mm along an axis of the maker's choice.
    nominal_gap
        Spacing Between Slices, else Slice Thickness, mm; positive.
    rescale
        (slope, intercept) to Hounsfield units.
    rescale_type
        Unit after the rescale, upper case; None means Hounsfield units (PS3.3 C.11.1.1.2).
    frame_of_reference_uid
        Coordinate system; empty if absent.
    """

    path: Path
    sop_instance_uid: str
    instance_number: int | None
    frame_number: int | None
    rows: int
    columns: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    slice_location: float | None
    nominal_gap: float | None
    rescale: tuple[float, ...] | None
    rescale_type: str | None
    frame_of_reference_uid: str


def read_slice_headers(paths: Sequence[Path]) -> list[SliceHeader]:
    """Read the headers of classic and Enhanced CT files, one entry for each slice.

    Raises
    ------
    BadInput
        A file is not DICOM, cannot be parsed, or its frames are not described one by one.
    """
    with damage_as_bad_input("a file of the series is damaged"):
        return [header for path in paths for header in _headers_of_file(path)]


def _headers_of_file(path: Path) -> Iterator[SliceHeader]:
    try:
        data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        frames = _count(data.get("NumberOfFrames")) or 1
        per_frame = list(data.get("PerFrameFunctionalGroupsSequence") or [])
        shared = list(data.get("SharedFunctionalGroupsSequence") or [])
    except (InvalidDicomError, OSError, EOFError, ValueError, NotImplementedError) as error:
        raise BadInput(
            f"a file of the series is not readable DICOM ({type(error).__name__}); send it again"
        ) from error
    if frames > MAXIMUM_FRAMES:
        raise BadInput(
            f"Number of Frames (0028,0008) is {frames}; at most {MAXIMUM_FRAMES} can be scored"
        )
    if per_frame and len(per_frame) != frames:
        raise BadInput(
            f"{short_uid(_text(data, 'SOPInstanceUID'))}: Number of Frames (0028,0008) is {frames} "
            f"but (5200,9230) describes {len(per_frame)}; the frames cannot be placed"
        )
    for index in range(frames):
        groups = [*per_frame[index : index + 1], *shared[:1]]
        multi_frame = bool(per_frame) or frames > 1
        yield _header(path, data, groups, index + 1 if multi_frame else None)


def _header(
    path: Path, data: Dataset, groups: list[Dataset], frame_number: int | None
) -> SliceHeader:
    measures = _macro(data, groups, "PixelMeasuresSequence")
    rescale = _macro(data, groups, "PixelValueTransformationSequence")
    gap = _number(measures, "SpacingBetweenSlices") or _number(measures, "SliceThickness")
    slope, intercept = _number(rescale, "RescaleSlope"), _number(rescale, "RescaleIntercept")
    return SliceHeader(
        path=path,
        sop_instance_uid=_text(data, "SOPInstanceUID"),
        instance_number=_count(_get(data, "InstanceNumber")),
        frame_number=frame_number,
        rows=_count(_get(data, "Rows")) or 0,
        columns=_count(_get(data, "Columns")) or 0,
        position=_numbers(_macro(data, groups, "PlanePositionSequence"), "ImagePositionPatient", 3),
        orientation=_orientation(_macro(data, groups, "PlaneOrientationSequence")),
        pixel_spacing=_spacing(measures),
        slice_location=_number(data, "SliceLocation"),
        nominal_gap=abs(gap) if gap else None,
        rescale=None if slope is None or intercept is None else (slope, intercept),
        rescale_type=_text(rescale, "RescaleType").upper() or None,
        frame_of_reference_uid=_text(data, "FrameOfReferenceUID"),
    )


def _macro(data: Dataset, groups: list[Dataset], keyword: str) -> Dataset:
    """Where an attribute lies: the frame's macro, the shared one, the data set (C.7.6.16)."""
    for group in groups:
        items = group.get(keyword)
        if items:
            item: Dataset = items[0]
            return item
    return data


def _get(data: Dataset, keyword: str) -> object:
    try:
        return data.get(keyword)
    except (ValueError, TypeError, OverflowError):  # a DS or IS that holds no number
        return None


def _numbers(data: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    value = _get(data, keyword)
    parts = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        numbers = tuple(float(str(part)) for part in parts)
    except ValueError:
        return None
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        return None
    return numbers


def _number(data: Dataset, keyword: str) -> float | None:
    numbers = _numbers(data, keyword, 1)
    return None if numbers is None else numbers[0]


def _count(value: object) -> int | None:
    try:
        return int(str(value))
    except ValueError:
        return None


def _text(data: Dataset, keyword: str) -> str:
    value = _get(data, keyword)
    return "" if value is None else str(value).strip()


def _spacing(data: Dataset) -> tuple[float, ...] | None:
    spacing = _numbers(data, "PixelSpacing", 2)
    smallest, largest = PIXEL_SPACING_MM
    if spacing is None or min(spacing) < smallest or max(spacing) > largest:
        return None
    return spacing


def _orientation(data: Dataset) -> tuple[float, ...] | None:
    cosines = _numbers(data, "ImageOrientationPatient", 6)
    if cosines is None:
        return None
    row, column = cosines[:3], cosines[3:]
    across = sum(a * b for a, b in zip(row, column, strict=True))
    if max(abs(math.hypot(*row) - 1), abs(math.hypot(*column) - 1), abs(across)) > UNIT_TOLERANCE:
        return None
    return cosines
