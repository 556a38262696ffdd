"""Every picture of a run's evidence is a readable PNG, and its curves are the right ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import auc, precision_recall_curve, roc_curve

from training import curves, plots
from training.data import Item, Picture
from training.judged import judge
from training.run_evidence import write_evidence, write_grids

HISTORY = [
    {
        "epoch": epoch,
        "train_loss": 1 / epoch,
        "train_accuracy": 0.8,
        "validation_loss": 1.2 / epoch,
        "validation_auc": 0.9,
        "validation_accuracy": 0.85,
        "learning_rate": [1e-5, 1e-3],
    }
    for epoch in (1, 2, 3)
]


def cases(count: int = 60) -> tuple[Any, Any]:
    """Whether the finding is there, and its probability with ties, (N,) each."""
    generator = np.random.default_rng(3)
    truth = generator.random(count) < 0.5
    return truth, np.round(np.clip(generator.normal(0.35 + 0.3 * truth, 0.2), 0, 1), 2)


def pixels(path: Path) -> Any:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def pictures(count: int, label_of: Any) -> list[Picture]:
    generator = np.random.default_rng(5)
    return [
        Picture(
            Item(f"{i}.png", label_of(i), "test", f"g{i // 2}"),
            generator.random((1, 32, 24)).astype(np.float32),
            0,
        )
        for i in range(count)
    ]


def test_the_curves_are_those_of_scikit_learn() -> None:
    truth, scores = cases()
    curve = curves.roc(truth, scores, seed=1)
    false_rate, true_rate, _ = roc_curve(truth, scores, drop_intermediate=False)
    np.testing.assert_allclose(curve.x, false_rate)
    np.testing.assert_allclose(curve.y, true_rate)
    pr = curves.precision_recall(truth, scores, seed=1)
    precision, recall, _ = precision_recall_curve(truth, scores)
    np.testing.assert_allclose(pr.x, recall[-2::-1])
    np.testing.assert_allclose(pr.y, precision[-2::-1])


def test_bands_hold_the_curve_and_are_wider_for_fewer_pictures() -> None:
    truth, scores = cases(400)
    curve = curves.roc(truth, scores, seed=1)
    middle = np.interp(curves.GRID, curve.x, curve.y)
    assert ((curve.low - 0.05 <= middle) & (middle <= curve.high + 0.05)).all()
    few = curves.roc(truth[:30], scores[:30], seed=1)
    width, narrow = (auc(curves.GRID, one.high - one.low) for one in (few, curve))
    assert width > 1.5 * narrow
    pr = curves.precision_recall(truth, scores, seed=1)
    assert (pr.low <= pr.high).all()
    assert pr.low.min() > 0


def test_bands_of_groups_leave_out_resamples_of_one_class() -> None:
    truth = np.array([True, False] * 4)
    scores = np.linspace(0.9, 0.1, 8)
    # Group a and b hold one class each, both hold c.
    groups = ["a", "b", "a", "b", "c", "c", "c", "c"]
    curve = curves.roc(truth, scores, seed=1, groups=groups)
    assert np.isfinite(curve.low).all()


def test_reliability_leaves_empty_bins_out() -> None:
    truth = np.array([False, True, True, True])
    bins = curves.reliability(truth, np.array([0.05, 0.95, 0.91, 1.0]), 10)
    np.testing.assert_array_equal(bins.counts, [1, 3])
    np.testing.assert_allclose(bins.predicted, [0.05, 2.86 / 3])
    np.testing.assert_allclose(bins.observed, [0.0, 1.0])


def test_a_heat_map_colours_its_place_and_leaves_the_rest_gray(tmp_path: Path) -> None:
    heat = np.zeros((8, 8), np.float32)
    heat[:, 4:] = 1
    plots.grid(tmp_path / "grid.png", [(np.full((40, 40), 0.5, np.float32), heat, "$x_1$ a_b")])
    shown = pixels(tmp_path / "grid.png").astype(int)
    row = shown[len(shown) // 2]
    colour = row.max(axis=1) - row.min(axis=1)
    gray = (colour == 0) & (row[:, 0] < 200)
    assert gray.sum() > 60
    assert (colour > 40).sum() > 60
    assert np.flatnonzero(gray).mean() < np.flatnonzero(colour > 40).mean()


def test_no_figure_stays_behind_and_the_same_figure_is_the_same_file(tmp_path: Path) -> None:
    backend = mpl.get_backend()
    for name in ("one", "two"):
        plots.training_curves(tmp_path / f"{name}.png", HISTORY)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert mpl.get_backend() == backend
    assert not mpl._pylab_helpers.Gcf.figs


def test_members_of_a_soup_are_not_joined_by_a_line() -> None:
    history = [{"epoch": number, "train_loss": 1.0, "member": number // 3} for number in range(6)]
    assert [len(part) for part in plots._trainings(history)] == [3, 3]
    assert plots._trainings(HISTORY) == [list(HISTORY)]


def test_everything_is_written(tmp_path: Path) -> None:
    truth, scores = cases(20)
    targets = truth.astype(np.int64)
    shown = pictures(20, lambda i: ("normal", "pneumonia")[targets[i]])
    figures = write_evidence(
        tmp_path / "evidence",
        targets,
        scores[:, np.newaxis],
        labels=("normal", "pneumonia"),
        positive="pneumonia",
        threshold=0.5,
        history=HISTORY,
        pictures=shown,
        maps=np.random.default_rng(1).random((20, 4, 4)).astype(np.float32),
        seed=1,
    )
    drawn = {path.stem for path in (tmp_path / "evidence").glob("*.png")}
    assert drawn == {
        "confusion_matrix",
        "roc",
        "precision_recall",
        "calibration",
        "training_curves",
        "learning_rate",
        "true_positives",
        "true_negatives",
        "false_positives",
        "false_negatives",
        "top_losses",
    }
    for name in drawn:
        assert pixels(tmp_path / "evidence" / f"{name}.png").std() > 0
    assert json.loads((tmp_path / "evidence/metrics.json").read_text()) == figures
    assert figures["resampled"] == "groups"
    lines = (tmp_path / "evidence/predictions.csv").read_text().splitlines()
    assert lines[0] == "path,split,label,called,p_normal,p_pneumonia"
    assert len(lines) == 21


@pytest.mark.parametrize("threshold", [0.5, 0.95])
def test_three_classes_and_one_class_are_drawn_too(tmp_path: Path, threshold: float) -> None:
    outputs = np.random.default_rng(2).dirichlet([1, 1, 1], 12)
    for name, targets in {"three": np.arange(12) % 3, "one": np.zeros(12, np.int64)}.items():
        write_evidence(
            tmp_path / name,
            targets,
            outputs,
            labels=("a", "b", "c"),
            positive="c",
            threshold=threshold,
            history=[],
            pictures=pictures(12, str),
            maps=None,
            seed=1,
        )
    assert (tmp_path / "three/roc.png").is_file()
    assert (tmp_path / "three/precision_recall.png").is_file()
    assert (tmp_path / "one/confusion_matrix.png").is_file()
    assert not (tmp_path / "one/roc.png").exists()


def test_wrong_pictures_come_worst_first_and_right_ones_surest_first(tmp_path: Path) -> None:
    scores = np.array([0.6, 0.9, 0.1, 0.3, 0.7, 0.8])
    targets = np.array([1, 1, 1, 1, 0, 0])
    case = judge(targets, scores[:, np.newaxis], labels=("n", "p"), positive="p", threshold=0.5)
    places = write_grids(tmp_path, case, pictures(6, str), None)
    assert places == {
        "true_positives": [1, 0],
        "false_positives": [5, 4],
        "false_negatives": [2, 3],
        "top_losses": [2, 5, 3, 4, 0, 1],
    }
    assert not (tmp_path / "true_negatives.png").exists()
