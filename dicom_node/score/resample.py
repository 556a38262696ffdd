"""A straight, evenly spaced image of a volume, and the way back to the original slices.

SimpleITK's images have one spacing and orthogonal axes. A tilted gantry, a missing slice or an
irregular gap does not fit; here the slices are interpolated to even positions and the tilt is
undone by a shear, and every plane remembers the original slice it lies nearest to.
"""

# mypy: allow-untyped-calls
# (SimpleITK has no type hints)

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from dicom_node.score.volume import Volume

AIR_HU = -1024
"""Fill value, and floor: scanners mark what lies outside the field of view with -2000 or less."""
CEILING_HU = 3071


@dataclass(frozen=True, slots=True, eq=False)
class RegularImage:
    """A resampled volume that knows where it came from.

    Attributes
    ----------
    image
        3-D float32 `SimpleITK.Image`, Hounsfield units in [-1024, 3071], axes (column, row,
        normal), with origin, direction and spacing in patient coordinates (mm).
    source_slices
        For each plane the index of the nearest original slice of the volume.
    planes
        For each original slice the index of the nearest plane.
    shrink
        Original pixels that one pixel of the image covers along rows and along columns.
    shape
        (slices, rows, columns) of the volume.
    """

    image: sitk.Image
    source_slices: tuple[int, ...]
    planes: tuple[int, ...]
    shrink: int
    shape: tuple[int, int, int]
    _stack_grid: sitk.Image
    _to_stack: sitk.AffineTransform | None

    def to_stack(self, mask: sitk.Image) -> NDArray[np.bool_]:
        """Bring a mask on `image` to (planes, rows / shrink, columns / shrink), tilt put back."""
        if self._to_stack is not None:
            mask = sitk.Resample(
                mask, self._stack_grid, self._to_stack, sitk.sitkNearestNeighbor, 0.0
            )
        array: NDArray[np.bool_] = sitk.GetArrayViewFromImage(mask) > 0
        return array

    def to_source(self, stack: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Spread a result of `to_stack` over the original slices: (slices, rows, columns) bool."""
        full = np.zeros(self.shape, np.bool_)
        for index, plane in enumerate(self.planes):
            grown = np.repeat(np.repeat(stack[plane], self.shrink, 0), self.shrink, 1)
            full[index, : grown.shape[0], : grown.shape[1]] = grown
        return full


def regular_image(volume: Volume, *, coarsest_mm: float = 0.0) -> RegularImage:
    """Resample a volume to even, orthogonal spacing.

    Parameters
    ----------
    coarsest_mm
        Pixels are averaged and planes are spaced up to this; 0 keeps the volume's own spacing.
    """
    gap, row_mm, column_mm = volume.spacing
    shrink = max(1, math.floor(coarsest_mm / max(row_mm, column_mm)))
    shrink = min(shrink, *volume.hu.shape[1:])
    gap = max(gap, coarsest_mm)
    run = volume.positions - volume.positions[0]
    heights = np.arange(math.floor(run[-1] / gap + 0.5) + 1) * gap
    spacing = (column_mm * shrink, row_mm * shrink, gap)
    image = _placed(_planes(volume, run, heights, shrink), volume, spacing, shrink)
    straight, to_stack = _straightened(image, volume.drift)
    return RegularImage(
        image=straight,
        source_slices=tuple(_nearest(run, heights)),
        planes=tuple(_nearest(heights, run)),
        shrink=shrink,
        shape=(volume.hu.shape[0], volume.hu.shape[1], volume.hu.shape[2]),
        _stack_grid=image,
        _to_stack=to_stack,
    )


def _nearest(of: NDArray[np.float64], to: NDArray[np.float64]) -> list[int]:
    """Index into ascending `of` that is nearest to each of `to`; the lower one on a tie."""
    right = np.clip(np.searchsorted(of, to), 0, len(of) - 1)
    left = np.clip(right - 1, 0, None)
    nearest: list[int] = np.where(to - of[left] <= of[right] - to, left, right).tolist()
    return nearest


def _planes(
    volume: Volume, run: NDArray[np.float64], heights: NDArray[np.float64], shrink: int
) -> NDArray[np.float32]:
    """Linear interpolation between slices: (planes, rows / shrink, columns / shrink) HU."""
    places = np.interp(heights, run, np.arange(len(run)))
    small: dict[int, NDArray[np.float32]] = {}

    def slice_at(index: int) -> NDArray[np.float32]:
        if index not in small:
            small[index] = _shrunk(volume.hu[index], shrink)
        return small[index]

    planes = []
    for place in places:
        below, weight = int(place), float(place % 1.0)
        plane = slice_at(below)
        if weight > 0:
            plane = plane * np.float32(1 - weight) + slice_at(below + 1) * np.float32(weight)
        for index in [index for index in small if index < below]:
            del small[index]
        planes.append(plane)
    return np.stack(planes)


def _shrunk(hu: NDArray[np.float32], shrink: int) -> NDArray[np.float32]:
    """Mean of shrink x shrink blocks; a remainder at the right and lower edge is cut."""
    rows, columns = (size // shrink * shrink for size in hu.shape)
    clipped = np.clip(hu[:rows, :columns], AIR_HU, CEILING_HU)
    if shrink == 1:
        return clipped
    lines = clipped.reshape(rows // shrink, shrink, columns).sum(axis=1)
    blocks = sum(lines[:, offset::shrink] for offset in range(shrink))
    return np.asarray(blocks / np.float32(shrink * shrink), np.float32)


def _placed(
    planes: NDArray[np.float32], volume: Volume, spacing: tuple[float, ...], shrink: int
) -> sitk.Image:
    row, column = np.array(volume.orientation[:3]), np.array(volume.orientation[3:])
    normal = np.cross(row, column)
    _, row_mm, column_mm = volume.spacing
    corner = np.array(volume.origin) + (shrink - 1) / 2 * (column_mm * row + row_mm * column)
    image = sitk.GetImageFromArray(planes)
    image.SetSpacing([float(value) for value in spacing])
    image.SetOrigin(corner.tolist())
    image.SetDirection(_orthonormal(np.column_stack([row, column, normal])).ravel().tolist())
    return image


def _orthonormal(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nearest rotation: headers round direction cosines, SimpleITK wants them exact."""
    left, _, right = np.linalg.svd(axes)
    rotation: NDArray[np.float64] = left @ right
    return rotation


def _straightened(
    image: sitk.Image, drift: tuple[float, float]
) -> tuple[sitk.Image, sitk.AffineTransform | None]:
    """Undo a gantry tilt.

    `image` lays plane after plane straight along the normal although each lies further along
    `drift`; a point p of the patient is found there at p - t (n . (p - o)), n the normal, t the
    drift vector, o the origin. Returns the image on a grid that holds all of it, and the way back.
    """
    if drift == (0.0, 0.0):
        return image, None
    axes = np.array(image.GetDirection()).reshape(3, 3)
    shift = axes[:, 0] * drift[0] + axes[:, 1] * drift[1]
    shear = sitk.AffineTransform(3)
    shear.SetCenter(image.GetOrigin())
    shear.SetMatrix((np.eye(3) - np.outer(shift, axes[:, 2])).ravel().tolist())
    columns, rows, planes = image.GetSize()
    width, height, gap = image.GetSpacing()
    length = (planes - 1) * gap
    sides = (width, height)
    grown = [math.ceil(abs(length * part) / mm) for part, mm in zip(drift, sides, strict=True)]
    start = np.array(image.GetOrigin())
    for part, cells, mm, axis in zip(drift, grown, sides, axes.T[:2], strict=True):
        if part < 0:
            start = start - cells * mm * axis
    straight = sitk.Resample(
        image,
        [columns + grown[0], rows + grown[1], planes],
        shear,
        sitk.sitkLinear,
        start.tolist(),
        image.GetSpacing(),
        image.GetDirection(),
        float(AIR_HU),
        sitk.sitkFloat32,
    )
    return straight, sitk.AffineTransform(shear.GetInverse())
