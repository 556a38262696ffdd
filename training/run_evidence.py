"""What a training run leaves to look at: figures, curves, and the pictures behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training import curves, plots
from training.data import Picture
from training.data.items import FloatArray
from training.judged import Array, Indices, Judged, judge
from training.metrics import BINS, measure
from training.predict import write_csv

METRICS = "metrics.json"
PREDICTIONS = "predictions.csv"
TILES = 12
"""Most pictures of a grid."""
_SMALLEST = 1e-12


def write_evidence(
    out: Path,
    targets: Indices,
    outputs: Array,
    *,
    labels: Sequence[str],
    positive: str,
    threshold: float,
    history: Sequence[Mapping[str, Any]],
    pictures: Sequence[Picture],
    maps: FloatArray | None,
    seed: int,
) -> dict[str, Any]:
    """Write figures, curves and grids of pictures, and return the figures.

    Writes `metrics.json`, `predictions.csv`, `confusion_matrix.png`, `roc.png`,
    `precision_recall.png`, `calibration.png`, `training_curves.png`, `learning_rate.png`,
    `true_positives.png` and its three companions, and `top_losses.png`. What cannot be drawn,
    such as a curve of one class alone, is not written.

    Parameters
    ----------
    out
        Folder, made if need be.
    targets, outputs, labels, positive, threshold
        See `training.metrics.measure`; N >= 1 pictures.
    history
        One entry an epoch: `epoch`, `learning_rate` (one, or one for each layer group),
        `train_...` and `validation_...`.
    pictures
        N, in the order of the targets.
    maps
        (N, h, w) float32 in [0, 1]: heat maps of the main finding.
    """
    out.mkdir(parents=True, exist_ok=True)
    named = [picture.item.group for picture in pictures]
    groups = named if any(named) else None
    case = judge(targets, outputs, labels=labels, positive=positive, threshold=threshold)
    figures = measure(
        targets,
        outputs,
        labels=labels,
        positive=positive,
        threshold=threshold,
        seed=seed,
        groups=groups,
    )
    (out / METRICS).write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n")
    write_csv(out / PREDICTIONS, _rows(case, pictures))
    plots.confusion_matrix(out / "confusion_matrix.png", case.matrix(), case.labels)
    plots.calibration(
        out / "calibration.png", curves.reliability(case.truth, case.scores, BINS), case.scores
    )
    _write_curves(out, case, figures, groups, seed)
    if history:
        plots.training_curves(out / "training_curves.png", history)
        plots.learning_rates(out / "learning_rate.png", history)
    write_grids(out, case, pictures, maps)
    return figures


def write_grids(
    out: Path, case: Judged, pictures: Sequence[Picture], maps: FloatArray | None
) -> dict[str, list[int]]:
    """Draw right, wrong and worst pictures, and return their places by name of the grid.

    Right ones come surest first, wrong ones worst first.
    """
    truth, found = case.truth, case.found
    loss = -np.log(np.maximum(case.probabilities[np.arange(len(truth)), case.targets], _SMALLEST))
    worst = np.argsort(-loss, kind="stable")
    surest = worst[::-1]
    chosen = {
        "true_positives": surest[(truth & found)[surest]],
        "true_negatives": surest[(~truth & ~found)[surest]],
        "false_positives": worst[(~truth & found)[worst]],
        "false_negatives": worst[(truth & ~found)[worst]],
        "top_losses": worst,
    }
    places = {name: [int(i) for i in some[:TILES]] for name, some in chosen.items() if len(some)}
    for name, some in places.items():
        tiles = [_tile(case, pictures[i], None if maps is None else maps[i], i) for i in some]
        plots.grid(out / f"{name}.png", tiles)
    return places


def _write_curves(
    out: Path,
    case: Judged,
    figures: Mapping[str, Any],
    groups: Sequence[str] | None,
    seed: int,
) -> None:
    """ROC and precision-recall of the main finding."""
    if case.truth.all() or not case.truth.any():
        return
    truth, found = case.truth, case.found
    sensitivity = float(found[truth].mean())
    plots.roc(
        out / "roc.png",
        curves.roc(truth, case.scores, seed=seed, groups=groups),
        auc=figures["per_class"][figures["positive"]]["auc"],
        point=(float(found[~truth].mean()), sensitivity),
        threshold=figures["threshold"],
    )
    precision = float(truth[found].mean()) if found.any() else None
    plots.precision_recall(
        out / "precision_recall.png",
        curves.precision_recall(truth, case.scores, seed=seed, groups=groups),
        average_precision=figures["average_precision"],
        share=float(truth.mean()),
        point=None if precision is None else (sensitivity, precision),
        threshold=figures["threshold"],
    )


def _rows(case: Judged, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    return [
        {
            "path": picture.item.path,
            "split": picture.item.split,
            "label": case.labels[case.targets[i]],
            "called": case.labels[case.called[i]],
            **{
                f"p_{label}": round(float(p), 6)
                for label, p in zip(case.labels, case.probabilities[i], strict=True)
            },
        }
        for i, picture in enumerate(pictures)
    ]


def _tile(case: Judged, picture: Picture, heat: FloatArray | None, place: int) -> plots.Tile:
    caption = f"{picture.item.label}, p = {case.scores[place]:.2f}"
    return picture.plane[0], heat, caption
