"""A made-up thorax in Hounsfield units: ellipsoids, tubes and noise, the same for the same seed.

Coordinates in mm: x to the patient's left, y to the back, z from 0 (below the diaphragm) to
`HEIGHT_MM` (above the lung tips). Right enough for finding lungs and showing a demonstration;
no statement about any person and of no use for judging a model.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

HEIGHT_MM = 240.0
FIELD_OF_VIEW_MM = 380.0

_AIR, _LUNG, _FAT, _MUSCLE, _BLOOD, _LIVER = -1000.0, -850.0, -95.0, 45.0, 40.0, 58.0
_TABLE, _CORTEX, _MARROW = -150.0, 650.0, 180.0
_NOISE_HU = 14.0
_VESSELS_PER_LUNG = 70
_OPACITIES_PER_LUNG = 7
_OPACITY_HU = 420.0
"""At its middle an opacity lifts lung to about -430 HU: ground glass."""

_Plane = NDArray[np.float32]


def thorax_slices(
    rng: np.random.Generator, heights: NDArray[np.float64], matrix: int
) -> Iterator[_Plane]:
    """Yield one (matrix, matrix) float32 slice in Hounsfield units for each height in mm.

    Rows run to the back, columns to the patient's left.
    """
    pixel = FIELD_OF_VIEW_MM / matrix
    axis = ((np.arange(matrix) - (matrix - 1) / 2) * pixel).astype(np.float32)
    x, y = axis[None, :], axis[:, None]
    vessels, opacities = _vessels(rng), _opacities(rng)
    reach = float(np.median(np.diff(heights))) if len(heights) > 1 else 5.0
    for z in heights:
        hu, lung = _organs(x, y, float(z))
        near = vessels[np.abs(vessels[:, 2] - z) <= np.maximum(reach / 2, vessels[:, 3])]
        _draw_vessels(hu, lung, near, pixel)
        _add_opacities(hu, lung, opacities, float(z), axis)
        hu = _smooth(hu)
        hu += rng.standard_normal(hu.shape, np.float32) * np.float32(_NOISE_HU)
        yield hu


def _ellipse(
    x: _Plane, y: _Plane, centre: tuple[float, float], radii: tuple[float, float]
) -> _Plane:
    """Square of the elliptic distance; inside where below 1."""
    return np.asarray(((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2)


def _lung_distance(x: _Plane, y: _Plane, z: float, side: int) -> _Plane:
    """Square of the distance in a lung's ellipsoid; `side` is -1 (right) or 1 (left)."""
    return _ellipse(x, y, (side * 72.0, 8.0), (60.0, 88.0)) + np.float32(((z - 110) / 122) ** 2)


def _organs(x: _Plane, y: _Plane, z: float) -> tuple[_Plane, NDArray[np.bool_]]:
    narrowing = 1 - 0.25 * max(0.0, (z - 170) / 70) ** 2
    wide, deep = 172.0 * narrowing, 122.0 * narrowing
    skin = _ellipse(x, y, (0, 0), (wide, deep))
    hu = np.where(skin <= 1, np.float32(_FAT), np.float32(_AIR))
    hu[_ellipse(x, y, (0, 0), (wide - 14, deep - 12)) <= 1] = _MUSCLE
    lung = np.zeros(hu.shape, np.bool_)
    for side in (-1, 1):
        lung |= _lung_distance(x, y, z, side) <= 1
        dome = (
            _ellipse(x, y, (side * 70.0, -5.0), (75.0, 100.0)) + ((z + 20) / (95 - 8 * side)) ** 2
        )
        lung &= dome > 1
        hu[(dome <= 1) & (_ellipse(x, y, (0, 0), (wide - 24, deep - 22)) <= 1)] = _LIVER
    heart = _ellipse(x, y, (24, -38), (58, 48)) + ((z - 85) / 58) ** 2 <= 1
    aorta = _ellipse(x, y, (22, deep - 60), (12, 12)) <= 1
    spine = _ellipse(x, y, (0, deep - 38), (21, 18))
    lung &= ~heart & ~aorta & (spine > 1.3)
    hu[lung] = _LUNG
    hu[heart | aorta] = _BLOOD
    hu[spine <= 1] = _CORTEX
    hu[spine <= 0.7] = _MARROW
    _draw_ribs(hu, x, y, z, (wide - 20, deep - 20))
    _draw_airways(hu, x, y, z)
    table = np.abs(y - 140 + (x / 60) ** 2) < 2.5
    hu[table & (np.abs(x) < 180) & (skin > 1)] = _TABLE
    return hu, lung


def _draw_ribs(hu: _Plane, x: _Plane, y: _Plane, z: float, radii: tuple[float, float]) -> None:
    """Oblique ribs in a shell of the chest wall, and the breast bone."""
    wall = _ellipse(x, y, (0, 2), radii)
    shell = (wall > 0.90) & (wall <= 1.02)
    hu[shell & (np.mod(z - 0.35 * y, 27.0) < 11.0) & (np.abs(x) > 25)] = _CORTEX
    if z > 60:
        hu[_ellipse(x, y, (0, -radii[1] + 3), (17, 6)) <= 1] = _MARROW


def _draw_airways(hu: _Plane, x: _Plane, y: _Plane, z: float) -> None:
    """The trachea above 140 mm, the main bronchi spreading below it."""
    if z >= 140:
        hu[_ellipse(x, y, (0, 18), (12, 12)) <= 1] = _MUSCLE
        hu[_ellipse(x, y, (0, 18), (9.5, 9.5)) <= 1] = _AIR
    elif z >= 110:
        for side in (-1, 1):
            hu[_ellipse(x, y, (side * (6 + 0.9 * (140 - z)), 18), (8, 7)) <= 1] = _AIR


def _vessels(rng: np.random.Generator) -> NDArray[np.float64]:
    """Sample points (x, y, z, radius) of tubes that run from each hilum outwards, in mm."""
    tubes = []
    for side in (-1, 1):
        hilum = np.array([side * 32.0, 18.0, 118.0])
        directions = rng.normal(size=(_VESSELS_PER_LUNG, 3))
        ends = np.array([side * 72.0, 8.0, 110.0]) + directions / np.linalg.norm(
            directions, axis=1, keepdims=True
        ) * np.array([57.0, 84.0, 116.0])
        thick = rng.uniform(1.6, 4.2, _VESSELS_PER_LUNG)
        for end, radius in zip(ends, thick, strict=True):
            along = np.linspace(0, 1, int(np.linalg.norm(end - hilum) / 0.7))[:, None]
            bend = np.sin(along * np.pi) * rng.normal(0, 6, 3)
            points = hilum + along * (end - hilum) + bend
            tubes.append(np.hstack([points, radius * (1.05 - along)]))
    return np.vstack(tubes)


def _draw_vessels(
    hu: _Plane, lung: NDArray[np.bool_], points: NDArray[np.float64], pixel: float
) -> None:
    size = hu.shape[0]
    mark = np.zeros(hu.shape, np.bool_)
    for px, py, _, radius in points:
        column, row = (round(value / pixel + (size - 1) / 2) for value in (px, py))
        reach = max(0, round(radius / pixel))
        steps = np.arange(-reach, reach + 1)
        disc = steps[:, None] ** 2 + steps[None, :] ** 2 <= reach**2
        if reach < min(column, row) and max(column, row) < size - reach:
            mark[row - reach : row + reach + 1, column - reach : column + reach + 1] |= disc
    hu[mark & lung] = _BLOOD


def _opacities(rng: np.random.Generator) -> NDArray[np.float64]:
    """Centres and widths (x, y, z, sigma) of hazy patches, mostly at the back and the rim, mm."""
    rows = []
    for side in (-1, 1):
        angle = rng.uniform(-0.5, 2.2, _OPACITIES_PER_LUNG)
        x = side * (72 + 46 * np.cos(angle))
        y = 8 + 66 * np.sin(angle)
        z = rng.uniform(60, 190, _OPACITIES_PER_LUNG)
        rows.append(np.column_stack([x, y, z, rng.uniform(7, 15, _OPACITIES_PER_LUNG)]))
    return np.vstack(rows)


def _add_opacities(
    hu: _Plane, lung: NDArray[np.bool_], opacities: NDArray[np.float64], z: float, axis: _Plane
) -> None:
    haze = np.zeros(hu.shape, np.float32)
    for ox, oy, oz, sigma in opacities:
        strength = np.exp(-0.5 * ((z - oz) / sigma) ** 2)
        if strength > 0.02:
            across, down = (np.exp(-0.5 * ((axis - place) / sigma) ** 2) for place in (ox, oy))
            haze += np.float32(strength) * down[:, None] * across[None, :]
    ripple = 0.85 + 0.15 * np.sin(axis / 3.1 + np.sin(axis[:, None] / 4.7 + z))
    hazy = lung & (hu < _MUSCLE - 1)
    hu[hazy] += (np.minimum(haze, 1) * ripple * _OPACITY_HU)[hazy]


def _smooth(hu: _Plane) -> _Plane:
    """Blur by (1 2 1) / 4 along both axes: the scanner's resolution."""
    for ahead, here, behind in (
        (np.s_[2:, :], np.s_[1:-1, :], np.s_[:-2, :]),
        (np.s_[:, 2:], np.s_[:, 1:-1], np.s_[:, :-2]),
    ):
        blurred = hu.copy()
        blurred[here] = (hu[ahead] + 2 * hu[here] + hu[behind]) / 4
        hu = blurred
    return hu
