"""How well can a picture's class be told from what is no lung?

If the border of the pictures, or a handful of numbers, tells the classes apart, then a network's
accuracy on the set proves nothing about disease: it may have learned where a picture comes from.
"""

# mypy: allow-untyped-calls
# (scikit-learn has no type hints)

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline as Steps
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dicom_node.errors import BadInput
from dicom_node.score.transforms import FloatArray, Pipeline
from training.data import Item, Source
from training.frozen import frozen_maps, frozen_network
from training.intervals import exact
from training.recipes import RECIPES
from training.recipes.base import Recipe

Array = NDArray[np.float64]

BORDER = 0.10
"""Share of a side that counts as border."""
CENTRE = 0.70
"""Share of a side, around the middle, that holds the lungs and is masked out."""
_SYSTEM = "cxr_covid3"
_SIDE = 32
_COMPONENTS = 30
_FOLDS = 5
_SEED = 20261121


def confounding(source: Source, recipe: Recipe = RECIPES[_SYSTEM]) -> dict[str, Any]:
    """Measure the accuracy of logistic regressions on parts of the pictures without the lungs.

    Parameters
    ----------
    recipe
        Its ImageNet backbone, untrained on the set, gives features beside the plain pixels.

    Returns
    -------
    dict
        `data_set`, `labels`, `chance` (share of the largest class, by split) and `accuracy`: part
        -> features -> split -> `n`, `accuracy`, `ci95` and `recall` of each label. Split `train` is
        cross-validated without a patient on both sides; `test` is the official test split, where
        there is one.

    Raises
    ------
    BadInput
        The set has no training images of two classes.
    """
    items = [item for item in source.items if item.split in {"train", "test"}]
    pictures = [source.read(item) for item in items]
    labels = sorted({item.label for item in items})
    targets = np.array([labels.index(item.label) for item in items])
    train = np.array([item.split == "train" for item in items])
    if len(np.unique(targets[train])) < 2:
        raise BadInput(
            f"{source.name}: no training images of two classes; a manifest with a column `split` "
            "and at least two labels is needed"
        )
    groups = np.array([_group(item) for item in items])
    accuracy: dict[str, Any] = {
        part: {
            name: _measured(features, targets, groups, train)
            for name, features in _features(recipe, hide, pictures).items()
        }
        for part, hide in _PARTS.items()
    }
    numbers = np.array([_trivial(picture) for picture in pictures])
    accuracy["trivial numbers"] = {"numbers": _measured(numbers, targets, groups, train)}
    return {
        "data_set": source.name,
        "labels": labels,
        "chance": {name: _chance(targets[rows]) for name, rows in _splits(train).items()},
        "accuracy": accuracy,
    }


def border_only(picture: FloatArray) -> FloatArray:
    """Blank everything but the outer border of `BORDER`."""
    return _without_centre(picture, 1 - 2 * BORDER)


def lungs_masked_out(picture: FloatArray) -> FloatArray:
    """Blank the central `CENTRE` of each side."""
    return _without_centre(picture, CENTRE)


_PARTS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "whole picture": lambda picture: picture,
    "border of 10 % alone": border_only,
    "central 70 % masked out": lungs_masked_out,
}


def _without_centre(picture: FloatArray, share: float) -> FloatArray:
    rows, columns = picture.shape
    top, left = round(rows * (1 - share) / 2), round(columns * (1 - share) / 2)
    result = picture.copy()
    result[top : rows - top, left : columns - left] = 0
    return result


def _features(
    recipe: Recipe, hide: Callable[[FloatArray], FloatArray], pictures: Sequence[FloatArray]
) -> dict[str, Array]:
    hidden = [hide(picture) for picture in pictures]
    small = [
        np.asarray(Image.fromarray(picture).resize((_SIDE, _SIDE), Image.Resampling.BOX))
        for picture in hidden
    ]
    network, recipe = frozen_network(recipe)
    maps = frozen_maps(network, Pipeline(recipe.preprocessing), hidden)
    return {
        "32 x 32 pixels": np.stack(small).reshape(len(small), -1).astype(np.float64),
        "ImageNet features": maps.mean(dim=(2, 3)).double().numpy(),
    }


def _trivial(picture: FloatArray) -> list[float]:
    """Aspect ratio, mean, spread and brightness of the corners."""
    rows, columns = picture.shape
    height, width = max(1, round(rows * BORDER)), max(1, round(columns * BORDER))
    corners = [
        picture[y, x]
        for y in (slice(height), slice(-height, None))
        for x in (slice(width), slice(-width, None))
    ]
    brightness = [float(corner.mean()) for corner in corners]
    return [columns / rows, float(picture.mean()), float(picture.std()), *brightness]


def _measured(
    features: Array, targets: NDArray[np.int64], groups: NDArray[np.str_], train: NDArray[np.bool_]
) -> dict[str, Any]:
    known, truth = features[train], targets[train]
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=_SEED)
    guessed = cross_val_predict(_model(features), known, truth, groups=groups[train], cv=folds)
    result = {"train": _result(guessed, truth)}
    if not train.all():
        model = _model(features).fit(known, truth)
        result["test"] = _result(model.predict(features[~train]), targets[~train])
    return result


def _model(features: Array) -> Steps:
    steps: list[Any] = [StandardScaler()]
    if features.shape[1] > _COMPONENTS:
        steps.append(PCA(_COMPONENTS, random_state=_SEED))
    steps.append(LogisticRegression(class_weight="balanced", max_iter=5000))
    model: Steps = make_pipeline(*steps)
    return model


def _result(guessed: NDArray[np.int64], truth: NDArray[np.int64]) -> dict[str, Any]:
    right = guessed == truth
    recall = [round(float(right[truth == label].mean()), 4) for label in np.unique(truth)]
    return {**share_with_interval(right), "recall": recall}


def share_with_interval(right: NDArray[np.bool_]) -> dict[str, Any]:
    """Share of right answers with the exact 95 % interval (Clopper and Pearson 1934)."""
    low, high = exact(int(right.sum()), len(right))
    return {
        "n": len(right),
        "accuracy": round(float(right.mean()), 4),
        "ci95": [round(low, 4), round(high, 4)],
    }


def _chance(targets: NDArray[np.int64]) -> float:
    return round(float(np.bincount(targets).max() / len(targets)), 4)


def _splits(train: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    return {"train": train} if train.all() else {"train": train, "test": ~train}


def _group(item: Item) -> str:
    """The patient where the manifest names one, so that nobody is on both sides of a fold."""
    return item.columns.get("patient_key") or item.group or item.path
