"""Pictures of a data set as planes of the node's own preprocessing, and the validation split."""

from __future__ import annotations

import csv
import io
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandAffine,
    RandCoarseDropout,
    RandFlip,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandHistogramShift,
    RandScaleIntensityFixedMean,
)
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold
from torch.utils.data import Dataset

from dicom_node.score.transforms import FloatArray, Pipeline
from training.recipes.base import Augmentation, Recipe

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
_LARGEST_GROUP = 8
"""Images; larger groups are not validated on."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One labelled image: its manifest row and its plane, (1, rows, columns) float32 in [0, 1]."""

    row: Mapping[str, str]
    plane: FloatArray
    target: float


@dataclass(frozen=True, slots=True)
class Splits:
    """Training, validation (both from the official training split) and official test images."""

    train: list[Picture]
    validation: list[Picture]
    test: list[Picture]


def data_dir() -> Path:
    """Folder of the data sets: the environment's `DICOM_NODE_DATA`, else beside the checkout."""
    return Path(os.environ.get("DICOM_NODE_DATA", DEFAULT_DATA))


def load(recipe: Recipe, folder: Path) -> Splits:
    """Read and prepare a recipe's images.

    Rows of the training split are left out that the recipe does not keep, that repeat an image
    already taken, or that repeat an image of the test split.
    """
    pictures = list(_read(recipe, folder))
    test = [picture for picture in pictures if picture.row["split"] == "test"]
    learnable = _learnable(recipe, pictures, test)
    train, validation = _group_split(recipe, learnable)
    return Splits(train, validation, test)


def _read(recipe: Recipe, folder: Path) -> Iterator[Picture]:
    pipeline = Pipeline(recipe.preprocessing)
    with tarfile.open(folder / f"{recipe.data_set}.tar") as archive:
        manifest = archive.extractfile("manifest.csv")
        if manifest is None:
            raise FileNotFoundError(f"{recipe.data_set}.tar has no manifest.csv")
        rows = {
            row["path"]: row for row in csv.DictReader(io.TextIOWrapper(manifest, encoding="utf-8"))
        }
        for member in archive:
            row = rows.get(member.name)
            content = archive.extractfile(member) if row is not None else None
            if row is None or content is None:
                continue
            with Image.open(io.BytesIO(content.read())) as image:
                display = np.asarray(image.convert("L"), dtype=np.float32)
            target = float(row["label"] == recipe.positive_label)
            yield Picture(row, pipeline.plane(display), target)


def _learnable(recipe: Recipe, pictures: list[Picture], test: list[Picture]) -> list[Picture]:
    seen = {picture.row["dup_group"] for picture in test} - {""}
    kept = []
    for picture in pictures:
        group = picture.row["dup_group"]
        if picture.row["split"] != "train" or not recipe.keep(picture.row) or group in seen:
            continue
        if group:
            seen.add(group)
        kept.append(picture)
    return kept


def _group_split(recipe: Recipe, pictures: list[Picture]) -> tuple[list[Picture], list[Picture]]:
    """Take one group fold for validation; large groups stay in training.

    One paper with twenty slices would otherwise decide what validation says.
    """
    sizes = Counter(picture.row[recipe.group_column] for picture in pictures)
    small = [p for p in pictures if sizes[p.row[recipe.group_column]] <= _LARGEST_GROUP]
    large = [p for p in pictures if sizes[p.row[recipe.group_column]] > _LARGEST_GROUP]
    folds = StratifiedGroupKFold(recipe.folds, shuffle=True, random_state=recipe.seed)
    targets = [picture.target for picture in small]
    groups = [picture.row[recipe.group_column] for picture in small]
    train, validation = next(iter(folds.split(targets, targets, groups)))
    return large + [small[index] for index in train], [small[index] for index in validation]


class Examples(Dataset[dict[str, Any]]):
    """Pictures as the network's input; augmented if an augmentation is given."""

    def __init__(
        self, pictures: list[Picture], pipeline: Pipeline, augment: Compose | None = None
    ) -> None:
        self._pictures = pictures
        self._pipeline = pipeline
        self._augment = augment

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Give `image` (3, rows, columns) float32 and `label` (1,) float32."""
        picture = self._pictures[index]
        plane: Any = picture.plane
        if self._augment is not None:
            plane = np.clip(np.asarray(self._augment(plane), dtype=np.float32), 0.0, 1.0)
        label = np.array([picture.target], dtype=np.float32)
        return {"image": self._pipeline.tensor(plane), "label": label}


def augmenter(settings: Augmentation, seed: int) -> Compose:
    """Build the seeded random variations of a plane in [0, 1]."""
    side = 224
    shift = settings.shift * side
    steps: list[Any] = [
        RandFlip(prob=settings.flip, spatial_axis=1),
        RandAffine(
            prob=0.8,
            rotate_range=settings.rotation,
            translate_range=(shift, shift),
            scale_range=(settings.zoom, settings.zoom),
            padding_mode="zeros",
        ),
        RandAdjustContrast(prob=0.5, gamma=settings.gamma),
        RandScaleIntensityFixedMean(prob=0.5, factors=settings.contrast, fixed_mean=True),
        RandHistogramShift(num_control_points=(5, 9), prob=0.3),
        RandGaussianSmooth(prob=0.5, sigma_x=(0.2, settings.blur), sigma_y=(0.2, settings.blur)),
        RandGaussianNoise(prob=0.3, std=settings.noise),
    ]
    if settings.erase:
        steps.append(
            RandCoarseDropout(
                holes=1, max_holes=settings.erase, spatial_size=12, max_spatial_size=40, prob=0.3
            )
        )
    composed = Compose(steps)
    composed.set_random_state(seed=seed)
    return composed
