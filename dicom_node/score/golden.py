"""Synthetic images with known answers: no patient is in them, and any machine can build them."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from dicom_node.score.manifest import GoldenImage

_LOWEST_HU, _HU_RANGE = -1000.0, 1100.0


def synthetic_image(
    rows: int, columns: int, phase: float, *, hounsfield: bool
) -> NDArray[np.float32]:
    """Draw two dark ovals in a bright one, crossed by waves.

    Parameters
    ----------
    rows, columns
        Size in pixels.
    phase
        Radians; shifts the waves.
    hounsfield
        Whether to give HU from -1000 to 100 instead of [0, 1].

    Returns
    -------
    image
        (rows, columns) float32, quantised to 256 levels so that the last bit of a sine does not
        matter.
    """
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    body = (x / 0.95) ** 2 + (y / 0.85) ** 2 < 1
    lungs = ((np.abs(x) - 0.42) / 0.3) ** 2 + (y / 0.6) ** 2 < 1
    waves = 0.5 + 0.5 * np.sin(9 * x + phase) * np.cos(7 * y - phase)
    level = np.where(lungs, 0.1 + 0.35 * waves, np.where(body, 0.75 + 0.15 * waves, 0.0))
    quantised: NDArray[np.float32] = (np.rint(level * 255) / 255).astype(np.float32)
    if not hounsfield:
        return quantised
    return np.asarray(quantised * _HU_RANGE + _LOWEST_HU, dtype=np.float32)


def image_digest(image: NDArray[np.float32]) -> str:
    """SHA-256 of an image's little-endian float32 bytes, lower-case hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(image, dtype="<f4").tobytes()).hexdigest()


def build(expected: GoldenImage, *, hounsfield: bool) -> NDArray[np.float32]:
    """Draw the image that a golden entry describes."""
    return synthetic_image(expected.rows, expected.columns, expected.phase, hounsfield=hounsfield)
