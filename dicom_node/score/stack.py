"""Order the slices of a CT series in space and say what is wrong with them: pure geometry.

Slices are sorted along the normal of their plane (PS3.3 C.7.6.2.1.1), never by file name and by
Instance Number only where the headers give no position. Every oddity becomes a short sentence for
a radiologist or an administrator; what would make the volume a fiction raises `BadInput`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dicom_node.errors import BadInput
from dicom_node.score.majority import MAJORITY, identity, keep_majority, slices_text
from dicom_node.score.slices import SliceHeader

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ASSUMED_GAP_MM = 3.0
"""Gap between slices if no header states one: between thin (1 mm) and thick (5 mm) chest series."""
LARGEST_EXTENT_MM = 2500.0
"""No scanner's table moves further; beyond it a position is wrong and resampling would explode."""
SAME_POSITION_MM = 0.05
"""Slices closer than this are the same slice twice; the thinnest CT slices are ten times as far."""
TILT_TOLERANCE_DEGREES = 0.5
MAXIMUM_TILT_DEGREES = 40.0
"""Gantries tilt to 30 degrees; beyond this the positions are not those of these planes."""
SHIFT_TOLERANCE_MM = 2.0
GAP_TOLERANCE = 0.1
"""Relative deviation of a gap from the median that is still rounding."""
MISSING_FROM_GAPS = 1.5
"""A gap of this many median gaps lacks at least one slice."""
FEW_SLICES = 20
"""Below this a series rarely covers the lungs (100 mm at the usual 5 mm)."""


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Slices in spatial order.

    Attributes
    ----------
    headers
        One for each slice, ascending along the normal; position, orientation and pixel spacing
        may be None only where a note says what was assumed.
    positions
        (slices,) float64, mm along the normal, strictly ascending.
    orientation
        Six direction cosines.
    origin
        Centre of the first pixel of the first slice, mm, (x, y, z).
    pixel_spacing
        (between rows, between columns), mm.
    gap
        Median distance of neighbouring slices along the normal, mm.
    drift
        In-plane movement for each mm along the normal, (along a row, along a column): non-zero
        for a tilted gantry.
    notes
        What a person should know.
    """

    headers: tuple[SliceHeader, ...]
    positions: NDArray[np.float64]
    orientation: tuple[float, ...]
    origin: tuple[float, ...]
    pixel_spacing: tuple[float, float]
    gap: float
    drift: tuple[float, float]
    notes: tuple[str, ...]


def arrange(headers: Sequence[SliceHeader], *, minimum_slices: int = 1) -> Stack:
    """Sort slices in space, drop what does not belong, report every oddity.

    Raises
    ------
    BadInput
        No slice, fewer than `minimum_slices`, no Pixel Spacing, no way to order the slices, no
        form shared by half of them, or positions that contradict the planes or any scanner.
    """
    if not headers:
        raise BadInput("the series holds no slice")
    notes: list[str] = []
    kept = sorted(headers, key=identity)
    kept = keep_majority(kept, notes)
    spacing = kept[0].pixel_spacing
    if spacing is None:
        raise BadInput(
            "Pixel Spacing (0028,0030) is absent, zero or no size of a CT pixel: sizes in the "
            "body cannot be measured; send the series with its pixel spacing"
        )
    kept, along = _ordered(kept, notes)
    kept, along = _without_repeats(kept, along, notes)
    _check_extent(along, minimum_slices, notes)
    orientation = _orientation(kept, notes)
    gap = _gaps(kept, along, notes)
    drift = _drift(kept, along, orientation, notes)
    _report_rescale(kept, notes)
    return Stack(
        headers=tuple(kept),
        positions=along,
        orientation=orientation,
        origin=kept[0].position or tuple(along[0] * _normal(orientation)),
        pixel_spacing=(spacing[0], spacing[1]),
        gap=gap,
        drift=drift,
        notes=tuple(notes),
    )


def _check_extent(along: NDArray[np.float64], minimum_slices: int, notes: list[str]) -> None:
    if along[-1] - along[0] > LARGEST_EXTENT_MM:
        raise BadInput(
            f"the slices span {along[-1] - along[0]:.0f} mm, more than {LARGEST_EXTENT_MM:.0f}: "
            "a position in the headers is wrong"
        )
    if len(along) < minimum_slices:
        raise BadInput(
            f"the series has {slices_text(len(along))} at distinct positions; "
            f"at least {minimum_slices} are needed"
        )
    if len(along) < FEW_SLICES:
        notes.append(f"only {slices_text(len(along))}: the lungs may be covered in part")


def _ordered(
    headers: list[SliceHeader], notes: list[str]
) -> tuple[list[SliceHeader], NDArray[np.float64]]:
    """Slices and their positions along the normal, ascending."""
    normal = _normal(headers[0].orientation or AXIAL)
    placed = {
        "Image Position (0020,0032)": [
            None if header.position is None else float(np.dot(normal, header.position))
            for header in headers
        ],
        "Slice Location (0020,1041)": [header.slice_location for header in headers],
        "Instance Number (0020,0013)": _numbered(headers),
    }
    for name, values in placed.items():
        known = [(h, value) for h, value in zip(headers, values, strict=True) if value is not None]
        distinct = {round(value / SAME_POSITION_MM) for _, value in known}
        if len(known) < MAJORITY * len(headers) or len(distinct) < min(2, len(headers)):
            continue
        if not name.startswith("Image Position"):
            notes.append(f"no usable Image Position (0020,0032): slices are ordered by {name}")
            known = [(replace(header, position=None), value) for header, value in known]
        if len(known) < len(headers):
            notes.append(f"{slices_text(len(headers) - len(known))} without {name} left out")
        known.sort(key=lambda item: (item[1], identity(item[0])))
        return [header for header, _ in known], np.array([value for _, value in known])
    raise BadInput(
        "the slices cannot be ordered: neither Image Position (0020,0032), Slice Location "
        "(0020,1041) nor Instance Number (0020,0013) tells them apart"
    )


def _numbered(headers: list[SliceHeader]) -> list[float | None]:
    gap = next((header.nominal_gap for header in headers if header.nominal_gap), ASSUMED_GAP_MM)
    numbers = [header.frame_number or header.instance_number for header in headers]
    return [None if number is None else number * gap for number in numbers]


def _without_repeats(
    headers: list[SliceHeader], along: NDArray[np.float64], notes: list[str]
) -> tuple[list[SliceHeader], NDArray[np.float64]]:
    """Keep one slice for each position: the lowest Instance Number, then the lowest UID."""
    clusters: list[list[int]] = []
    for index, position in enumerate(along):
        if clusters and position - along[clusters[-1][0]] < SAME_POSITION_MM:
            clusters[-1].append(index)
        else:
            clusters.append([index])
    repeats = len(headers) - len(clusters)
    if repeats:
        notes.append(
            f"{slices_text(repeats)} at a position that another slice has already: "
            "the one with the lowest Instance Number is used"
        )
    chosen = [min(cluster, key=lambda index: identity(headers[index])) for cluster in clusters]
    return [headers[index] for index in chosen], along[chosen]


def _orientation(headers: list[SliceHeader], notes: list[str]) -> tuple[float, ...]:
    orientation = headers[0].orientation
    if orientation is None:
        notes.append("no usable Image Orientation (0020,0037): slices are taken as axial")
        return AXIAL
    name = plane_of(orientation)
    if name != "axial":
        notes.append(f"the slices are {name}, not axial")
    return orientation


def plane_of(orientation: Sequence[float]) -> str:
    """Name the plane: "axial", "coronal" or "sagittal", whichever is nearest."""
    return ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(_normal(orientation))))]


def _normal(orientation: Sequence[float]) -> NDArray[np.float64]:
    normal = np.cross(np.array(orientation[:3]), np.array(orientation[3:]))
    unit: NDArray[np.float64] = normal / np.linalg.norm(normal)
    return unit


def _gaps(headers: list[SliceHeader], along: NDArray[np.float64], notes: list[str]) -> float:
    if len(along) < 2:
        return headers[0].nominal_gap or ASSUMED_GAP_MM
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    holes = np.flatnonzero(gaps > MISSING_FROM_GAPS * usual)
    if holes.size:
        missing = int(np.sum(np.round(gaps[holes] / usual) - 1))
        places = ", ".join(f"{along[i]:.1f} to {along[i + 1]:.1f} mm" for i in holes[:3])
        more = ", ..." if holes.size > 3 else ""
        notes.append(
            f"about {slices_text(missing)} missing: gaps at {places}{more} "
            f"where {usual:.2f} mm is the rule"
        )
    small = gaps[gaps <= MISSING_FROM_GAPS * usual]
    if small.size and float(np.max(np.abs(small - usual))) > GAP_TOLERANCE * usual:
        notes.append(
            f"irregular slice spacing: {small.min():.2f} to {small.max():.2f} mm, resampled for "
            "finding the lungs"
        )
    return usual


def _drift(
    headers: list[SliceHeader],
    along: NDArray[np.float64],
    orientation: tuple[float, ...],
    notes: list[str],
) -> tuple[float, float]:
    """In-plane movement for each mm along the normal; reports tilt and sideways shifts."""
    points = [header.position for header in headers if header.position is not None]
    if len(points) < len(headers) or len(headers) < 2:
        return 0.0, 0.0
    axes = np.array([orientation[:3], orientation[3:]])
    offsets = (np.array(points) - np.array(points[0])) @ axes.T
    run = along - along[0]
    slopes = np.median(np.diff(offsets, axis=0) / np.diff(along)[:, None], axis=0)
    tilt = math.degrees(math.atan(float(np.hypot(*slopes))))
    if tilt > MAXIMUM_TILT_DEGREES:
        raise BadInput(
            f"Image Position (0020,0032) runs {tilt:.0f} degrees off the normal of the slices: "
            "position and orientation contradict one another"
        )
    if tilt <= TILT_TOLERANCE_DEGREES:
        slopes = np.zeros(2)
    else:
        notes.append(f"gantry tilt of {tilt:.1f} degrees: corrected for finding the lungs")
    rest = float(np.max(np.abs(offsets - run[:, None] * slopes)))
    if rest > SHIFT_TOLERANCE_MM:
        notes.append(f"slices are shifted sideways against one another by up to {rest:.0f} mm")
    return float(slopes[0]), float(slopes[1])


def _report_rescale(headers: list[SliceHeader], notes: list[str]) -> None:
    if len({header.rescale for header in headers}) > 1:
        notes.append(
            "mixed Rescale Slope or Intercept (0028,1053; 0028,1052): each slice is converted to "
            "Hounsfield units with its own"
        )
    if any(header.rescale is None for header in headers):
        notes.append("no Rescale Slope and Intercept: stored values are taken as Hounsfield units")
    units = {header.rescale_type for header in headers} - {None, "HU"}
    if units:
        notes.append("Rescale Type (0028,1054) is not HU: densities may be wrong")
