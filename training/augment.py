"""Random variations of training pictures: MONAI's from an allow-list, and three of our own.

All take and give planes (1, rows, columns) float32 in [0, 1]. The three repeat what happened to the
public pictures on their way: JPEG, a small copy enlarged again, a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from monai.transforms.compose import Compose
from monai.transforms.intensity.array import (
    RandAdjustContrast,
    RandCoarseDropout,
    RandGaussianNoise,
    RandGaussianSharpen,
    RandGaussianSmooth,
    RandHistogramShift,
    RandScaleIntensityFixedMean,
    RandShiftIntensity,
)
from monai.transforms.spatial.array import RandAffine, RandFlip, RandRotate, RandZoom
from monai.transforms.transform import RandomizableTransform
from numpy.typing import NDArray
from PIL import Image

from dicom_node.errors import BadInput
from dicom_node.score.preprocessing import Scalar, TransformSpec
from dicom_node.score.transforms import JPEG, FloatArray

_SHARES_OF_SIDE = frozenset({"translate_range", "spatial_size", "max_spatial_size"})
"""Arguments that MONAI wants in pixels and a recipe states as shares of the side."""
_SPATIAL = (RandAffine, RandFlip, RandRotate, RandZoom)
"""Transforms that move what is on a picture."""


class RandJPEG(RandomizableTransform):
    """Encode as an 8-bit gray JPEG and decode again.

    Parameters
    ----------
    prob
        How often.
    quality
        (lowest, highest) of Pillow's quality, 1 to 95.
    """

    def __init__(self, prob: float, quality: tuple[int, int]) -> None:
        super().__init__(prob)
        _require_range("quality", quality, 1, 95)
        self._quality = quality

    def __call__(self, image: Any) -> FloatArray:
        """Vary (1, r, c) in [0, 1]."""
        plane = _plane(image)
        self.randomize(None)
        if not self._do_transform:
            return plane
        low, high = self._quality
        return JPEG(int(self.R.randint(low, high + 1)))(plane)


class RandLowResolution(RandomizableTransform):
    """Shrink (bilinear, averaging) and enlarge again (bicubic).

    Parameters
    ----------
    prob
        How often.
    zoom
        (lowest, highest) size of the small copy as a share of the side, in (0, 1].
    """

    def __init__(self, prob: float, zoom: tuple[float, float]) -> None:
        super().__init__(prob)
        _require_range("zoom", zoom, 0.01, 1)
        self._zoom = zoom

    def __call__(self, image: Any) -> FloatArray:
        """Vary (1, r, c) in [0, 1]."""
        plane = _plane(image)
        self.randomize(None)
        if not self._do_transform:
            return plane
        zoom = self.R.uniform(*self._zoom)
        rows, columns = plane.shape[1:]
        small = (max(1, round(columns * zoom)), max(1, round(rows * zoom)))
        picture = Image.fromarray(plane[0], mode="F").resize(small, Image.Resampling.BILINEAR)
        large = picture.resize((columns, rows), Image.Resampling.BICUBIC)
        return np.clip(np.array(large, dtype=np.float32), 0, 1)[np.newaxis]


class RandBorder(RandomizableTransform):
    """Cover each side up to some depth with one gray value: a frame, a collimator, a page.

    Parameters
    ----------
    prob
        How often.
    fraction
        Greatest depth as a share of the side, in (0, 0.5).
    """

    def __init__(self, prob: float, fraction: float) -> None:
        super().__init__(prob)
        if not 0 < fraction < 0.5:
            raise ValueError(f"fraction {fraction} is not in (0, 0.5)")
        self._fraction = fraction

    def __call__(self, image: Any) -> FloatArray:
        """Vary (1, r, c) in [0, 1]."""
        plane = _plane(image)
        self.randomize(None)
        if not self._do_transform:
            return plane
        rows, columns = plane.shape[1:]
        gray = self.R.uniform()
        shares = self.R.uniform(0, self._fraction, size=4)
        top, bottom, left, right = (int(n) for n in shares * (rows, rows, columns, columns))
        framed = np.full_like(plane, gray)
        inside = (slice(None), slice(top, rows - bottom), slice(left, columns - right))
        framed[inside] = plane[inside]
        return framed


_ALLOWED: dict[str, Callable[..., Any]] = {
    constructor.__name__: constructor
    for constructor in (
        RandAdjustContrast,
        RandAffine,
        RandBorder,
        RandCoarseDropout,
        RandFlip,
        RandGaussianNoise,
        RandGaussianSharpen,
        RandGaussianSmooth,
        RandHistogramShift,
        RandJPEG,
        RandLowResolution,
        RandRotate,
        RandScaleIntensityFixedMean,
        RandShiftIntensity,
        RandZoom,
    )
}


def augmenter(specs: Sequence[TransformSpec], seed: int, side: int) -> Compose:
    """Build the seeded random variations of planes of `side` pixels.

    Raises
    ------
    BadInput
        A transform that is not in the allow-list or does not take these arguments.
    """
    composed = Compose([_construct(spec, side) for spec in specs])
    composed.set_random_state(seed=seed)
    return composed


def moves(spec: TransformSpec) -> bool:
    """Whether a transform moves what is on a picture."""
    constructor = _ALLOWED.get(spec.name)
    return isinstance(constructor, type) and issubclass(constructor, _SPATIAL)


def vary(augment: Compose, plane: FloatArray, seed: int) -> FloatArray:
    """Vary a plane as `seed` says, whatever was varied before; (1, r, c) float32 in [0, 1]."""
    augment.set_random_state(seed=seed)
    return np.clip(_plane(augment(plane)), 0, 1)


def vary_mask(augment: Compose, mask: NDArray[np.bool_], seed: int) -> FloatArray:
    """Move a mask (r, c) as `vary` moves a plane with the same seed; (1, r, c) in [0, 1].

    Nothing lies beyond the edge of the picture.
    """
    augment.set_random_state(seed=seed)
    moved: Any = mask[np.newaxis].astype(np.float32)
    for transform in augment.transforms:
        if isinstance(transform, _SPATIAL):
            moved = transform(moved)
    return np.clip(_plane(moved), 0, 1)


def _construct(spec: TransformSpec, side: int) -> Any:
    constructor = _ALLOWED.get(spec.name)
    if constructor is None:
        raise BadInput(
            f"augmentation {spec.name!r} is not allowed; allowed are {', '.join(sorted(_ALLOWED))}"
        )
    arguments = {
        name: _in_pixels(value, side) if name in _SHARES_OF_SIDE else value
        for name, value in spec.arguments.items()
    }
    try:
        return constructor(**arguments)
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"augmentation {spec.name!r} does not take its arguments: {error}"
        ) from error


def _in_pixels(value: Scalar | tuple[Scalar, ...], side: int) -> int | tuple[float, ...]:
    if isinstance(value, tuple):
        return tuple(float(part) * side for part in value)
    return max(1, round(float(value) * side))


def _plane(image: Any) -> FloatArray:
    return np.ascontiguousarray(np.asarray(image), dtype=np.float32)


def _require_range(name: str, bounds: tuple[float, float], low: float, high: float) -> None:
    if not low <= bounds[0] <= bounds[1] <= high:
        raise ValueError(f"{name} {bounds} is not (low, high) between {low} and {high}")
