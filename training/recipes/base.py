"""What a recipe declares; one file beside this one per system."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dicom_node.score.preprocessing import Preprocessing, TransformSpec


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How training images are varied; zero switches a variation off.

    Attributes
    ----------
    flip
        Probability of a left-right mirror.
    rotation
        Largest rotation in radians.
    zoom, shift
        Largest relative change of size, largest shift as a part of the side.
    gamma
        (low, high) exponent of the intensity curve.
    contrast
        Largest relative change of contrast around the mean.
    noise
        Largest standard deviation of added Gaussian noise, image in [0, 1].
    blur
        Largest sigma of Gaussian smoothing in pixels.
    erase
        Largest number of rectangles blanked out.
    """

    flip: float
    rotation: float
    zoom: float
    shift: float
    gamma: tuple[float, float]
    contrast: float
    noise: float
    blur: float
    erase: int


Triplet = tuple[str, str, str]
LUNG: Triplet = ("39607008", "SCT", "Lung")


@dataclass(frozen=True, slots=True)
class Labels:
    """Names of a model; `code` and `site` are (value, scheme, meaning)."""

    kind: str
    title: str
    code: Triplet
    site: Triplet
    data_title: str
    license: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """A system that can be trained, evaluated and exported by name.

    Attributes
    ----------
    name
        Name of the model folder.
    data_set
        Name of the tar file and manifest.
    positive_label
        Manifest `label` that counts as the finding.
    group_column
        Manifest column whose values must not lie on both sides of the validation split.
    keep
        Whether a manifest row of the training split may be learned from.
    folds
        One of this many group folds of the training split is the validation set.
    frozen_layers
        Leading layers that keep their ImageNet weights. Edges and textures need no relearning, and
        what cannot adapt cannot learn the traces of one source's scanners and encoders.
    epochs, batch_size, learning_rate, weight_decay, label_smoothing, seed
        Of the optimisation.
    labels
        What the model is called and what it looks for.
    intended_use, aggregation, limits
        As `dicom_node.score.manifest` declares them.
    license_text
        Content of `docs/data_license.txt`.
    """

    name: str
    data_set: str
    positive_label: str
    group_column: str
    keep: Callable[[Mapping[str, str]], bool]
    folds: int
    frozen_layers: int
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    seed: int
    preprocessing: Preprocessing
    augmentation: Augmentation
    architecture: str
    labels: Labels
    intended_use: Mapping[str, Any]
    aggregation: Mapping[str, Any] | None
    limits: tuple[str, ...]
    license_text: str


SIDE = 224
_RESIZE = TransformSpec(name="ResizeAntialiased", arguments={"rows": SIDE, "columns": SIDE})
_CLIP = TransformSpec(
    name="ScaleIntensityRangePercentiles",
    arguments={"lower": 0.5, "upper": 99.5, "b_min": 0.0, "b_max": 1.0, "clip": True},
)
PICTURE_STAGE = (_RESIZE, _CLIP)
"""Resize first: percentiles are then taken at the size at which training took them."""

TENSOR_STAGE = (
    TransformSpec(name="RepeatChannel", arguments={"repeats": 3}),
    # EfficientNet-Lite was trained on (x - 127) / 128 of 8-bit images.
    TransformSpec(
        name="NormalizeIntensity", arguments={"subtrahend": 127 / 255, "divisor": 128 / 255}
    ),
)
