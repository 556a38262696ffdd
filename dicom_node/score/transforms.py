"""The one preprocessing, for training and for the node: MONAI transforms from an allow-list.

A model folder names transforms and plain numbers; only the constructors below can be named, and
no text of a folder is ever evaluated. All arrays are channel-first: (1, rows, columns) float32.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from monai.transforms.compose import Compose
from monai.transforms.intensity.array import (
    NormalizeIntensity,
    ScaleIntensityRange,
    ScaleIntensityRangePercentiles,
)
from monai.transforms.utility.array import RepeatChannel
from numpy.typing import NDArray
from PIL import Image

from dicom_node.errors import ModelError
from dicom_node.score.preprocessing import Preprocessing, TransformSpec

FloatArray = NDArray[np.float32]


class ResizeAntialiased:
    """Resize without keeping the aspect ratio; averages over the source pixels when shrinking.

    Parameters
    ----------
    rows, columns
        Size of the result in pixels.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows = rows
        self.columns = columns

    def __call__(self, image: FloatArray) -> FloatArray:
        """Resize (1, r, c) float32 to (1, rows, columns) float32, bilinear with area support."""
        plane = np.ascontiguousarray(np.asarray(image, dtype=np.float32)[0])
        if plane.shape == (self.rows, self.columns):
            return plane[np.newaxis]
        resized = Image.fromarray(plane, mode="F").resize(
            (self.columns, self.rows), Image.Resampling.BILINEAR
        )
        # A copy: Pillow's memory is read-only and PyTorch warns of it.
        return np.array(resized, dtype=np.float32)[np.newaxis]


class CropBody:
    """Crop to the largest connected region above a threshold: the body without couch and clothes.

    Parameters
    ----------
    threshold
        In the units of the image (HU: -300 separates air from soft tissue).
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def box(self, plane: FloatArray) -> tuple[int, int, int, int]:
        """Find (left, top, right, bottom) of the body in (rows, columns); all of it if none."""
        library: Any = sitk  # its functions are untyped
        mask = library.GetImageFromArray((plane > self.threshold).astype(np.uint8))
        # Opening cuts the couch and wires off the skin.
        opened = library.BinaryMorphologicalOpening(mask, [_OPENING_PIXELS] * 2)
        regions = library.RelabelComponent(
            library.ConnectedComponent(opened), sortByObjectSize=True
        )
        statistics = library.LabelShapeStatisticsImageFilter()
        statistics.Execute(regions)
        if statistics.GetNumberOfLabels() == 0:
            return 0, 0, plane.shape[1], plane.shape[0]
        left, top, width, height = statistics.GetBoundingBox(1)
        return left, top, left + width, top + height

    def __call__(self, image: FloatArray) -> FloatArray:
        """Crop (1, r, c) float32."""
        left, top, right, bottom = self.box(np.asarray(image)[0])
        return image[:, top:bottom, left:right]


_OPENING_PIXELS = 2


class JPEG:
    """Compress as an 8-bit gray JPEG and decompress again.

    A network that learned from compressed pictures notices those that never were. Compressed alike,
    they differ less to it.

    Parameters
    ----------
    quality
        Pillow's, 1 to 95.

    Raises
    ------
    ValueError
        Another quality.
    """

    def __init__(self, quality: int) -> None:
        if not 1 <= quality <= _BEST_QUALITY:
            raise ValueError(f"quality {quality} is not 1 to {_BEST_QUALITY}")
        self.quality = quality

    def __call__(self, image: FloatArray) -> FloatArray:
        """Compress (1, r, c) float32 in [0, 1]; not a number everywhere where that is somewhere."""
        plane = np.clip(np.asarray(image, dtype=np.float32)[0], 0, 1)
        if np.isnan(plane).any():  # as bytes it would become a sound picture
            return np.full((1, *plane.shape), np.nan, np.float32)
        compressed = io.BytesIO()
        picture = Image.fromarray(np.rint(plane * _WHITE).astype(np.uint8))
        picture.save(compressed, "JPEG", quality=self.quality)
        with Image.open(compressed) as read:
            return np.asarray(read, dtype=np.float32)[np.newaxis] / np.float32(_WHITE)


_BEST_QUALITY = 95
_WHITE = 255


_ALLOWED: dict[str, Callable[..., Any]] = {
    "CropBody": CropBody,
    "JPEG": JPEG,
    "NormalizeIntensity": NormalizeIntensity,
    "RepeatChannel": RepeatChannel,
    "ResizeAntialiased": ResizeAntialiased,
    "ScaleIntensityRange": ScaleIntensityRange,
    "ScaleIntensityRangePercentiles": ScaleIntensityRangePercentiles,
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A network input with the region of the source image that it shows.

    Attributes
    ----------
    tensor
        (3, rows, columns) float32, normalised.
    box
        (left, top, right, bottom) in source pixels.
    """

    tensor: FloatArray
    box: tuple[int, int, int, int]


class Pipeline:
    """A `Preprocessing` made callable.

    Parameters
    ----------
    declaration
        What the model folder says.

    Raises
    ------
    ModelError
        A transform that is not in the allow-list or does not take these arguments.
    """

    def __init__(self, declaration: Preprocessing) -> None:
        self.declaration = declaration
        self._to_display = _build(declaration.hounsfield)
        self._to_plane = _build(declaration.display)
        self._to_tensor = _build(declaration.tensor)

    def plane(self, display: FloatArray) -> FloatArray:
        """Turn a display image (r, c), any scale, into (1, rows, columns) float32 in [0, 1]."""
        return _as_array(self._to_plane(_channel_first(display)))

    def tensor(self, plane: FloatArray) -> FloatArray:
        """Turn (1, rows, columns) in [0, 1] into the network's (3, rows, columns) float32."""
        return _as_array(self._to_tensor(plane))

    def prepare(self, image: FloatArray) -> Prepared:
        """Turn a source image (r, c) in the declaration's `input` units into a network input."""
        if self.declaration.input == "display":
            box = (0, 0, image.shape[1], image.shape[0])
            return Prepared(self.tensor(self.plane(image)), box)
        box = self._body_box(image)
        return Prepared(self.tensor(self.plane(self.display(image))), box)

    def display(self, hounsfield: FloatArray) -> FloatArray:
        """Turn HU (r, c) into a display image (r', c') float32: cropped and windowed."""
        return np.ascontiguousarray(_as_array(self._to_display(_channel_first(hounsfield)))[0])

    def _body_box(self, image: FloatArray) -> tuple[int, int, int, int]:
        for transform in self._to_display.transforms:
            if isinstance(transform, CropBody):
                return transform.box(image)
        return 0, 0, image.shape[1], image.shape[0]


def _build(specs: tuple[TransformSpec, ...]) -> Compose:
    return Compose([_construct(spec) for spec in specs])


def _construct(spec: TransformSpec) -> Callable[..., Any]:
    constructor = _ALLOWED.get(spec.name)
    if constructor is None:
        raise ModelError(
            f"transform {spec.name!r} is not allowed; allowed are {', '.join(sorted(_ALLOWED))}"
        )
    try:
        built: Callable[..., Any] = constructor(**spec.arguments)
    except (TypeError, ValueError) as error:
        raise ModelError(f"transform {spec.name!r} does not take its arguments: {error}") from error
    return built


def _channel_first(image: FloatArray) -> FloatArray:
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"expected a non-empty image (rows, columns), got shape {image.shape}")
    return np.ascontiguousarray(image, dtype=np.float32)[np.newaxis]


def _as_array(value: Any) -> FloatArray:
    array = value.numpy() if hasattr(value, "numpy") else value
    return np.ascontiguousarray(array, dtype=np.float32)
