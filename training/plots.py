"""Pictures of a run's evidence, each written to one PNG file; nothing is kept between calls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from training.curves import GRID, Curve, Reliability

Tile = tuple[NDArray[np.float32], NDArray[np.float32] | None, str]
"""Picture (r, c) in [0, 1], heat map (h, w) in [0, 1] or None, and caption."""

_DPI = 110
_SIDE = 5.0
"""Inches."""
_BAND = {"color": "tab:blue", "alpha": 0.2, "linewidth": 0}
_HEAT = {"cmap": "inferno", "vmin": 0.0, "vmax": 1.0, "interpolation": "bilinear"}
_MOST_OPAQUE = 0.55
_COLUMNS = 4


def confusion_matrix(path: Path, matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> None:
    """Draw counts by truth (rows) and call (columns), shaded by their share of the row."""
    counts = np.asarray(matrix, dtype=np.float64)
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _figure()
    axes.imshow(counts / totals, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels, rotation=90, va="center")
    axes.set(xlabel="called", ylabel="label")
    for row, column in np.ndindex(counts.shape):
        share = counts[row, column] / totals[row, 0]
        axes.text(
            column,
            row,
            f"{int(counts[row, column])}\n{share:.1%}",
            ha="center",
            va="center",
            color="white" if share > 0.5 else "black",
        )
    _write(figure, path)


def roc(
    path: Path, curve: Curve, *, auc: float, point: tuple[float, float], threshold: float
) -> None:
    """Draw an ROC curve with its 95 % band.

    Parameters
    ----------
    point
        (false positive rate, true positive rate) at the threshold.
    """
    figure, axes = _figure()
    axes.fill_between(GRID, curve.low, curve.high, label="95 % of resamples", **_BAND)
    axes.plot(curve.x, curve.y, label=f"AUC {auc:.3f}")
    axes.plot([0, 1], [0, 1], color="gray", linestyle=":", label="chance")
    axes.plot(*point, "ko", label=f"threshold {threshold:g}")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity")
    _unit_square(axes, legend="lower right")
    _write(figure, path)


def precision_recall(
    path: Path,
    curve: Curve,
    *,
    average_precision: float,
    share: float,
    point: tuple[float, float] | None,
    threshold: float,
) -> None:
    """Draw a precision-recall curve with its 95 % band.

    Parameters
    ----------
    share
        Share of pictures with the finding: the precision of chance.
    point
        (recall, precision) at the threshold; None if nothing is called there.
    """
    figure, axes = _figure()
    axes.fill_between(GRID, curve.low, curve.high, label="95 % of resamples", **_BAND)
    axes.plot(curve.x, curve.y, label=f"average precision {average_precision:.3f}")
    axes.axhline(share, color="gray", linestyle=":", label="chance")
    if point is not None:
        axes.plot(*point, "ko", label=f"threshold {threshold:g}")
    axes.set(xlabel="recall", ylabel="precision")
    _unit_square(axes, legend="lower left")
    _write(figure, path)


def calibration(path: Path, bins: Reliability, probabilities: NDArray[np.float64]) -> None:
    """Draw observed over predicted frequency, above a histogram of the probabilities (N,)."""
    figure = Figure(figsize=(_SIDE, _SIDE * 1.3), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color="gray", linestyle=":", label="perfect")
    above.plot(bins.predicted, bins.observed, "o-", label="pictures")
    above.set(ylabel="observed frequency")
    _unit_square(above, legend="upper left")
    below.hist(probabilities, bins=20, range=(0, 1), color="tab:blue")
    below.set(xlabel="predicted probability", ylabel="pictures")
    _write(figure, path)


def training_curves(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Draw losses (left) and the other figures in [0, 1] (right) over the epochs."""
    figure = Figure(figsize=(2 * _SIDE, _SIDE), layout="constrained")
    left, right = figure.subplots(1, 2)
    trainings = _trainings(history)
    for number, name in enumerate(_figures_of(history)):
        axes = left if name.endswith("loss") else right
        for place, part in enumerate(trainings):
            label = name.replace("_", " ") if place == 0 else None
            axes.plot(*_series(part, name), marker=".", color=f"C{number}", label=label)
    left.set(ylabel="loss")
    right.set(ylabel="share")
    for axes in (left, right):
        axes.grid(visible=True, alpha=0.3)
        _set_epochs(axes, trainings)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    _write(figure, path)


def learning_rates(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Draw the learning rate over the epochs; lowest and highest where layer groups differ."""
    figure, axes = _figure()
    trainings = _trainings(history)
    for place, part in enumerate(trainings):
        epochs = [entry["epoch"] for entry in part]
        rates = [np.atleast_1d(entry["learning_rate"]) for entry in part]
        highest, lowest = [max(values) for values in rates], [min(values) for values in rates]
        first = place == 0
        axes.plot(epochs, highest, ".-C0", label="highest (head)" if first else None)
        if highest != lowest:
            label = "lowest (first trained group)" if first else None
            axes.plot(epochs, lowest, ".-C1", label=label)
    axes.set(ylabel="learning rate", yscale="log")
    _set_epochs(axes, trainings)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    _write(figure, path)


def grid(path: Path, tiles: Sequence[Tile]) -> None:
    """Draw pictures side by side, each with its heat map over it and its caption above."""
    columns = min(_COLUMNS, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    figure = Figure(figsize=(2.4 * columns, 2.7 * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in places:
        axes.set_axis_off()
    for axes, (picture, heat, caption) in zip(places, tiles, strict=False):
        height, width = picture.shape
        whole = (0, width, height, 0)
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=whole)
        if heat is not None:
            # Where there is no heat the picture shines through.
            axes.imshow(heat, alpha=heat * _MOST_OPAQUE, extent=whole, **_HEAT)
        axes.set_title(caption, fontsize=8, parse_math=False)
    _write(figure, path)


def _figure() -> tuple[Figure, Any]:
    figure = Figure(figsize=(_SIDE, _SIDE), layout="constrained")
    return figure, figure.subplots()


def _unit_square(axes: Any, *, legend: str) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc=legend)


def _trainings(history: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The history of each member of a soup; of any other run, its own."""
    members: dict[int, list[Mapping[str, Any]]] = {}
    for entry in history:
        members.setdefault(entry.get("member", 1), []).append(entry)
    return list(members.values())


def _set_epochs(axes: Any, trainings: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    """Whole numbers below; a line between trainings that have nothing to do with each other."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch" if len(trainings) == 1 else f"epoch, {len(trainings)} members in turn")
    for part in trainings[1:]:
        axes.axvline(part[0]["epoch"] - 0.5, color="gray", linestyle=":", linewidth=1)


def _figures_of(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of losses and of other figures that lie in [0, 1], in the order of the history."""
    names = dict.fromkeys(name for entry in history for name in entry)
    return [name for name in names if name.startswith(("train_", "validation_"))]


def _series(history: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Epochs that have a figure, and the figure."""
    held = [entry for entry in history if entry.get(name) is not None]
    return [entry["epoch"] for entry in held], [float(entry[name]) for entry in held]


def _write(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the version of matplotlib in it, the same figure is the same file.
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
