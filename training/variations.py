"""Pictures that a hospital's pipeline may make of a picture, and pictures that are something else.

All functions take and give planes (1, rows, columns) float32 in [0, 1]. They are made by formula
from the pictures that a model was made from, so that the scope gate can be fitted and judged
without any foreign data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image
from scipy import ndimage

from dicom_node.score.transforms import JPEG, FloatArray
from training.data import Picture

Generator = np.random.Generator

_CHANCE = 0.5
"""With which each mild variation is applied."""
_QUALITY = (50, 95)
_SHRINK = (0.6, 1.0)
_BLUR = (0.2, 0.8)
_GAMMA = (0.8, 1.25)
_NOISE = (0.0, 0.02)
_DEGREES = 5.0
_SHIFT = 0.03


def mild(plane: FloatArray, generator: Generator) -> FloatArray:
    """One random mild variation: still a picture that the model must accept."""
    for change in _MILD:
        if generator.uniform() < _CHANCE:
            plane = np.clip(change(plane, generator), 0, 1).astype(np.float32)
    return plane


def also_varied(pictures: Sequence[Picture], seed: int) -> list[Picture]:
    """All pictures, then one mild variation of each.

    What is chosen must hold for pictures that went through another hospital's pipeline, too; those
    of a set alone all went through one.
    """
    generator = np.random.default_rng(seed)
    return [*pictures, *(replace(each, plane=mild(each.plane, generator)) for each in pictures)]


def _moved(plane: FloatArray, generator: Generator) -> FloatArray:
    """Rotate and shift a little; the edge is continued, since a film has no black corners."""
    angle = generator.uniform(-_DEGREES, _DEGREES)
    turned = ndimage.rotate(plane[0], angle, reshape=False, order=1, mode="nearest")
    shift = generator.uniform(-_SHIFT, _SHIFT, 2) * turned.shape
    return np.asarray(ndimage.shift(turned, shift, order=1, mode="nearest"))[np.newaxis]


def _gamma(plane: FloatArray, generator: Generator) -> FloatArray:
    low, high = np.log(_GAMMA)
    return np.asarray(plane ** np.exp(generator.uniform(low, high)), dtype=np.float32)


def _blurred(plane: FloatArray, generator: Generator) -> FloatArray:
    smooth = ndimage.gaussian_filter(plane[0], generator.uniform(*_BLUR))
    return np.asarray(smooth[np.newaxis], dtype=np.float32)


def _shrunk_and_back(plane: FloatArray, generator: Generator) -> FloatArray:
    rows, columns = plane.shape[1:]
    share = generator.uniform(*_SHRINK)
    small = resized(plane, max(1, round(rows * share)), max(1, round(columns * share)))
    return resized(small, rows, columns)


def _noisy(plane: FloatArray, generator: Generator) -> FloatArray:
    noise = generator.normal(0, generator.uniform(*_NOISE), plane.shape)
    return plane + noise.astype(np.float32)


def _jpeg(plane: FloatArray, generator: Generator) -> FloatArray:
    return JPEG(int(generator.integers(*_QUALITY, endpoint=True)))(plane)


_MILD: tuple[Callable[[FloatArray, Generator], FloatArray], ...] = (
    _moved,
    _gamma,
    _blurred,
    _shrunk_and_back,
    _noisy,
    _jpeg,
)
"""In the order in which a picture suffers them: patient, detector, archive."""


def _cropped(share: float) -> Callable[[FloatArray, Generator], FloatArray]:
    """Keep a random part of the picture, `share` of each side, enlarged to the whole."""

    def crop(plane: FloatArray, generator: Generator) -> FloatArray:
        rows, columns = plane.shape[1:]
        height, width = round(rows * share), round(columns * share)
        top = int(generator.integers(0, rows - height, endpoint=True))
        left = int(generator.integers(0, columns - width, endpoint=True))
        part = plane[:, top : top + height, left : left + width]
        return resized(part, rows, columns)

    return crop


def _squeezed(plane: FloatArray, generator: Generator) -> FloatArray:
    """Half as high as wide, on black."""
    del generator
    rows, columns = plane.shape[1:]
    result = np.zeros_like(plane)
    result[:, rows // 4 : rows // 4 + rows // 2] = resized(plane, rows // 2, columns)
    return result


def _noise(plane: FloatArray, generator: Generator) -> FloatArray:
    return generator.uniform(size=plane.shape).astype(np.float32)


def _gradient(plane: FloatArray, generator: Generator) -> FloatArray:
    rows, columns = np.mgrid[-1 : 1 : plane.shape[1] * 1j, -1 : 1 : plane.shape[2] * 1j]
    down, right = generator.uniform(-0.5, 0.5, 2)
    slope = 0.5 + 0.5 * (down * rows + right * columns)
    return np.asarray(slope[np.newaxis], dtype=np.float32)


def _turned(quarters: int) -> Callable[[FloatArray, Generator], FloatArray]:
    def turn(plane: FloatArray, generator: Generator) -> FloatArray:
        del generator
        rotated = np.ascontiguousarray(np.rot90(plane, quarters, axes=(1, 2)))
        return resized(rotated, *plane.shape[1:])

    return turn


def _askew(plane: FloatArray, generator: Generator) -> FloatArray:
    """Rotated by 30 to 60 degrees; black corners or continued edges, so that neither tells."""
    angle = generator.uniform(30, 60) * generator.choice([-1, 1])
    mode = str(generator.choice(["constant", "nearest"]))
    turned = ndimage.rotate(plane[0], angle, reshape=False, order=1, mode=mode)
    return np.asarray(np.clip(turned, 0, 1)[np.newaxis], dtype=np.float32)


def _left_half(plane: FloatArray, generator: Generator) -> FloatArray:
    del generator
    return resized(plane[:, :, : max(1, plane.shape[2] // 2)], *plane.shape[1:])


Change = Callable[[FloatArray, Generator], FloatArray]

ALTERATIONS: dict[str, tuple[str, Change]] = {
    "rotated by 90 degrees": ("rotated", _turned(1)),
    "rotated by 180 degrees": ("rotated", _turned(2)),
    "rotated by 270 degrees": ("rotated", _turned(3)),
    "rotated by 30 to 60 degrees": ("rotated", _askew),
    "upside down": ("upside down", lambda plane, _: np.ascontiguousarray(plane[:, ::-1])),
    "inverted": ("inverted", lambda plane, _: 1 - plane),
    "cropped to 70 % of the side": ("cropped", _cropped(0.7)),
    "cropped to 50 % of the side": ("cropped", _cropped(0.5)),
}
"""Ways of altering a picture that the gate learns from training pictures, with a word for each."""

STRANGERS: dict[str, Change] = {
    "the left half alone": _left_half,
    "squeezed to half the height": _squeezed,
    "noise": _noise,
    "blank gradient": _gradient,
}
"""What is made of a validation picture so that the gate, which never learned it, must refuse it."""


def resized(plane: FloatArray, rows: int, columns: int) -> FloatArray:
    """Resize (1, r, c) to (1, rows, columns), bilinear with area support when shrinking."""
    picture = Image.fromarray(np.ascontiguousarray(plane[0], dtype=np.float32))
    smaller = picture.resize((columns, rows), Image.Resampling.BILINEAR)
    return np.array(smaller, dtype=np.float32)[np.newaxis]
