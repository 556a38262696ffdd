"""Where the lungs lie on a picture of a chest: a rough classical estimate, no network.

It answers one question: how much of a heat map lies inside the lungs, on average over many
pictures. It is no segmentation. On a film, each lung is the dark region nearest to where lungs
usually are, made convex; consolidated lung is covered by that alone, lung behind the heart and the
diaphragm is left out, and on about one film in six an armpit is taken in (32 films were looked
at). On a CT slice it is what is dark inside the body. Pictures without a believable pair of lungs
are marked and must not be counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

FloatArray = NDArray[np.float32]
Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_SIDE = 128
"""Working size in pixels: details do not matter here."""
_FINE, _BROAD = 2.0, 22.0
"""Smoothing in pixels: ribs vanish at the first, lungs at the second."""
_UNEXPOSED = 0.12
"""Below, where joined to the edge: nothing but air or the frame of the picture."""
_EXPOSED, _EXPOSED_SHARE = 0.15, 0.3
"""A row or column belongs to the body if this share of it is brighter than that."""
_DARKNESS = 0.27
"""How much one standard deviation of darkness counts beside the place (which counts up to 1)."""
_LEVEL = 0.5
_SMALLEST_BOX = 30
_AREA = (0.06, 0.6)
"""Share of the picture that both lungs may take."""
_ONE_SIDE = 0.2
"""Share of the lungs' area that the smaller lung must have."""
_CT_SMALLEST = 0.01
"""Share of the slice below which a dark piece is no lung."""


@dataclass(frozen=True, slots=True, eq=False)
class LungField:
    """An estimate of the lungs.

    Attributes
    ----------
    mask
        (rows, columns) bool.
    plausible
        Whether a left and a right part of believable size were found.
    """

    mask: Mask
    plausible: bool


def lung_field(picture: FloatArray, *, slice_of_ct: bool = False) -> LungField:
    """Estimate the lungs on a frontal film or an axial slice.

    Parameters
    ----------
    picture
        (rows, columns) float32 in [0, 1], dark to bright, upright.
    """
    small = np.asarray(_resized(picture, (_SIDE, _SIDE)), dtype=np.float64)
    low, high = np.percentile(small, [1, 99])
    small = np.clip((small - low) / max(high - low, 1e-3), 0, 1)
    mask, middle = _on_slice(small) if slice_of_ct else _on_film(small)
    left, right = int(mask[:, :middle].sum()), int(mask[:, middle:].sum())
    both, (least, most) = left + right, _AREA
    plausible = least <= both / mask.size <= most and min(left, right) >= _ONE_SIDE * both
    return LungField(_resized(mask.astype(np.float32), picture.shape) >= 0.5, bool(plausible))


def _on_film(image: Array) -> tuple[Mask, int]:
    """The mask and the column of the body's middle."""
    smooth = ndimage.gaussian_filter(image, _FINE)
    contrast = smooth - ndimage.gaussian_filter(image, _BROAD)
    top, bottom, left, right = _body(smooth)
    place = _usual_place(top, bottom, left, right)
    darkness = (np.median(contrast) - contrast) / (contrast.std() + 1e-6)
    score = place + _DARKNESS * darkness
    score[_joined_to_edge(smooth < _UNEXPOSED)] = -1
    middle, mask = (left + right) // 2, np.zeros(image.shape, np.bool_)
    for half in (slice(0, middle), slice(middle, _SIDE)):
        found = np.zeros(image.shape, np.bool_)
        found[:, half] = score[:, half] > _LEVEL
        found = ndimage.binary_opening(found, iterations=2)
        parts, count = ndimage.label(found)
        if count:
            weights = ndimage.sum_labels(place, parts, range(1, count + 1))
            mask |= convex(parts == 1 + int(np.argmax(weights)))
    return mask, middle


def _on_slice(image: Array) -> tuple[Mask, int]:
    """The mask and the column of the body's middle."""
    smooth = ndimage.gaussian_filter(image, 1.0)
    body = smooth > smooth.mean()
    parts, count = ndimage.label(ndimage.binary_opening(body))
    if count == 0:
        return np.zeros(image.shape, np.bool_), _SIDE // 2
    largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    inside = ndimage.binary_fill_holes(largest) & ~largest
    pieces, count = ndimage.label(ndimage.binary_opening(inside))
    sizes = np.bincount(pieces.ravel())
    wanted = 1 + np.flatnonzero(sizes[1:] >= _CT_SMALLEST * image.size)
    lungs = ndimage.binary_closing(np.isin(pieces, wanted), iterations=3)
    across = np.flatnonzero(largest.any(axis=0))
    return ndimage.binary_fill_holes(lungs), int(across[0] + across[-1]) // 2


def _body(smooth: Array) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what was exposed."""
    exposed = smooth > _EXPOSED
    rows = np.flatnonzero(exposed.mean(axis=1) > _EXPOSED_SHARE)
    columns = np.flatnonzero(exposed.mean(axis=0) > _EXPOSED_SHARE)
    if min(len(rows), len(columns)) < _SMALLEST_BOX:
        return 0, _SIDE - 1, 0, _SIDE - 1
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def _usual_place(top: int, bottom: int, left: int, right: int) -> Array:
    """Two ovals in [0, 1] that lean together at the top; measured by eye on 32 films."""
    rows, columns = np.mgrid[0:_SIDE, 0:_SIDE].astype(np.float64)
    y, x = (rows - top) / (bottom - top), (columns - left) / (right - left)
    off = 0.15 + 0.12 * np.clip(y, 0, 1)
    across = (np.abs(x - 0.5) - off) / 0.17
    return np.asarray(np.exp(-(across**2) - ((y - 0.45) / 0.32) ** 2))


def _joined_to_edge(mask: Mask) -> Mask:
    parts, _ = ndimage.label(mask)
    edge = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    return np.asarray(np.isin(parts, np.unique(edge[edge > 0])))


def convex(mask: Mask) -> Mask:
    """Fill a region to its convex hull."""
    try:
        hull: Any = ConvexHull(np.argwhere(mask))
    except QhullError:
        return mask
    places = np.moveaxis(np.mgrid[0 : mask.shape[0], 0 : mask.shape[1]], 0, -1)
    within = places @ hull.equations[:, :2].T + hull.equations[:, 2] <= 1e-6
    return np.asarray(within.all(axis=-1))


def _resized(image: FloatArray | Array, shape: tuple[int, ...]) -> FloatArray:
    plane = Image.fromarray(np.ascontiguousarray(image, dtype=np.float32))
    return np.asarray(plane.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))
