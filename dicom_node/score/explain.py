"""Where a score comes from: class activation maps as heat maps and boxes in source pixels.

For a network that ends in global average pooling and one linear layer the class activation map is
Grad-CAM (Selvaraju et al. 2017, section 3.1), so no backward pass is needed. Negative evidence is
cut off, as Grad-CAM does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image

FloatArray = NDArray[np.float32]
Box = tuple[float, float, float, float]

HEAT_SIDE = 224
"""Longest side of a heat map in pixels; the map itself is coarser, this only smooths it."""
BOX_LEVEL = 0.5
"""A box surrounds the connected region at least this strong that holds the maximum."""


def normalised_maps(activations: FloatArray) -> FloatArray:
    """Cut off negative evidence and scale each map to its own maximum.

    Parameters
    ----------
    activations
        (N, F, h, w) float32.

    Returns
    -------
    maps
        (N, F, h, w) float32 in [0, 1]; all zero where nothing speaks for the finding.
    """
    positive = np.maximum(activations, 0)
    peaks = positive.max(axis=(2, 3), keepdims=True)
    return np.asarray(positive / np.where(peaks > 0, peaks, 1), dtype=np.float32)


def heat_map(
    activation: FloatArray, region: tuple[int, int, int, int], rows: int, columns: int
) -> FloatArray:
    """Stretch a map over the whole source image.

    Parameters
    ----------
    activation
        (h, w) float32 in [0, 1]; covers `region`.
    region
        (left, top, right, bottom) in source pixels.
    rows, columns
        Size of the source image.

    Returns
    -------
    heat
        (h', w') float32 in [0, 1], longest side `HEAT_SIDE` or less; zero outside the region.
    """
    scale = min(1.0, HEAT_SIDE / max(rows, columns))
    heat = np.zeros((max(1, round(rows * scale)), max(1, round(columns * scale))), np.float32)
    left, top, right, bottom = _scaled(region, scale, heat.shape)
    stretched = Image.fromarray(np.ascontiguousarray(activation), mode="F").resize(
        (right - left, bottom - top), Image.Resampling.BILINEAR
    )
    heat[top:bottom, left:right] = np.clip(np.asarray(stretched), 0.0, 1.0)
    return heat


def strongest_box(heat: FloatArray, rows: int, columns: int) -> Box | None:
    """Box around the region that holds the maximum of a heat map.

    Returns
    -------
    box
        (left, top, right, bottom) in source pixels; None if the map is empty.
    """
    if heat.max() <= 0:
        return None
    strong = sitk.GetImageFromArray((heat >= BOX_LEVEL * heat.max()).astype(np.uint8))
    library: Any = sitk  # its functions are untyped
    labels = sitk.GetArrayFromImage(library.ConnectedComponent(strong))
    peak = np.unravel_index(int(np.argmax(heat)), heat.shape)
    region_rows, region_columns = np.nonzero(labels == labels[peak])
    vertical, horizontal = rows / heat.shape[0], columns / heat.shape[1]
    return (
        float(region_columns.min() * horizontal),
        float(region_rows.min() * vertical),
        float((region_columns.max() + 1) * horizontal),
        float((region_rows.max() + 1) * vertical),
    )


def _scaled(
    region: tuple[int, int, int, int], scale: float, shape: tuple[int, ...]
) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(edge * scale) for edge in region)
    left, top = min(left, shape[1] - 1), min(top, shape[0] - 1)
    return left, top, min(max(right, left + 1), shape[1]), min(max(bottom, top + 1), shape[0])
