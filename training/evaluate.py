"""Numbers with confidence intervals, from the exported bundle as the node runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from dicom_node.score.bundle import read_bundle
from dicom_node.score.engine import Classifier, open_classifier
from training.data import Picture, Splits
from training.recipes.base import Recipe

Vector = NDArray[np.float64]
RESAMPLES = 2000
_LEVEL = (2.5, 97.5)


def scores(classifier: Classifier, pictures: list[Picture]) -> tuple[Vector, Vector]:
    """Calibrated probabilities of the first finding and targets, (N,) each."""
    tensors = [classifier.pipeline.tensor(picture.plane) for picture in pictures]
    targets = np.array([picture.target for picture in pictures])
    return classifier.predict(tensors).probabilities[:, 0], targets


def measure(
    probabilities: Vector, targets: Vector, threshold: float, *, seed: int
) -> dict[str, Any]:
    """AUC, accuracy, sensitivity, specificity and Brier score with 95 % bootstrap intervals.

    Images are resampled, `RESAMPLES` times, within each class.
    """
    generator = np.random.default_rng(seed)
    positive, negative = np.flatnonzero(targets > 0), np.flatnonzero(targets == 0)
    draws = [
        np.concatenate(
            [generator.choice(positive, positive.size), generator.choice(negative, negative.size)]
        )
        for _ in range(RESAMPLES)
    ]
    called = probabilities >= threshold
    metrics: dict[str, Callable[[Any], float]] = {
        "auc": lambda i: float(roc_auc_score(targets[i], probabilities[i])),
        "accuracy": lambda i: float((called[i] == (targets[i] > 0)).mean()),
        "sensitivity": lambda i: float(called[i][targets[i] > 0].mean()),
        "specificity": lambda i: float((~called[i])[targets[i] == 0].mean()),
        "brier": lambda i: float(((probabilities[i] - targets[i]) ** 2).mean()),
    }
    everything = np.arange(targets.size)
    result: dict[str, Any] = {"n": int(targets.size), "n_positive": int(positive.size)}
    for name, metric in metrics.items():
        low, high = np.percentile([metric(draw) for draw in draws], _LEVEL)
        result[name] = {
            "value": round(metric(everything), 4),
            "confidence_interval": [round(float(low), 4), round(float(high), 4)],
        }
    return result


def strict_test(recipe: Recipe, splits: Splits) -> list[Picture]:
    """Test images with an undoubted label whose group and copies are not in what was learned."""
    learned = splits.train + splits.validation
    groups = {picture.row[recipe.group_column] for picture in learned}
    return [
        picture
        for picture in splits.test
        if picture.row[recipe.group_column] not in groups
        and not picture.row.get("label_flag")
        and not _shared_copy(picture)
    ]


def _shared_copy(picture: Picture) -> bool:
    # In covid_ct every duplicate group that reaches the test split reaches the training split too.
    return bool(picture.row.get("label_flag") is not None and picture.row["dup_group"])


def evaluate(recipe: Recipe, splits: Splits, folder: Path) -> dict[str, Any]:
    """Score an exported bundle on the validation and official test splits."""
    classifier = open_classifier(read_bundle(folder), device="cpu")
    threshold = classifier.bundle.findings[0].threshold
    parts = {
        "validation": splits.validation,
        "test": splits.test,
        "test_strict": strict_test(recipe, splits),
    }
    report: dict[str, Any] = {
        "model": recipe.name,
        "version": classifier.bundle.version,
        "data_set": recipe.data_set,
        "threshold": threshold,
        "engine": classifier.engine,
    }
    for name, pictures in parts.items():
        probabilities, targets = scores(classifier, pictures)
        report[name] = measure(probabilities, targets, threshold, seed=recipe.seed)
    return report
