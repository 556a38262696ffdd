"""Figures agree with scikit-learn, their intervals with a plain bootstrap, and nulls say why."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from dicom_node.errors import BadInput
from training.intervals import (
    bootstrap,
    draws,
    exact,
    weighted_auc,
    weighted_average_precision,
    weighted_ece,
    weighted_f1,
    weighted_mean,
)
from training.metrics import FIGURES, measure

LABELS = ("normal", "pneumonia")
THREE = ("normal", "bacterial", "covid")


def binary(count: int, *, seed: int = 1) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Targets (N,) and probabilities (N, 1) that overlap and have ties."""
    generator = np.random.default_rng(seed)
    targets = (generator.random(count) < 0.6).astype(np.int64)
    scores = 1 / (1 + np.exp(-generator.normal(1.2 * targets - 0.6, 1.0)))
    return targets, np.round(scores, 2)[:, np.newaxis]


def figures(targets: Any, outputs: Any, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "labels": LABELS,
        "positive": "pneumonia",
        "threshold": 0.5,
        "seed": 7,
        "resamples": 200,
    }
    return measure(np.array(targets), np.array(outputs, np.float64), **settings | changes)


def test_binary_figures_are_the_textbook_ones() -> None:
    # 3 of 4 found, 2 of 3 left alone.
    scores = [[0.9], [0.8], [0.5], [0.2], [0.7], [0.1], [0.3]]
    result = figures([1, 1, 1, 1, 0, 0, 0], scores)
    assert result["confusion_matrix"] == [[2, 1], [1, 3]]
    assert result["labels"] == ["normal", "pneumonia"]
    assert (result["n"], result["n_positive"], result["threshold"]) == (7, 4, 0.5)
    assert result["sensitivity"] == result["recall"] == result["precision"] == result["f1"] == 0.75
    assert result["specificity"] == pytest.approx(2 / 3, abs=1e-6)
    assert result["accuracy"] == pytest.approx(5 / 7, abs=1e-6)
    assert result["auc"] == pytest.approx(9 / 12, abs=1e-6)
    errors = np.array([0.1, 0.2, 0.5, 0.8, 0.7, 0.1, 0.3])
    assert result["brier"] == pytest.approx((errors**2).mean(), abs=1e-6)
    # Every picture is in a bin of its own.
    assert result["ece"] == pytest.approx(errors.mean(), abs=1e-6)
    assert result["undefined"] == {}


def test_the_finding_may_be_the_first_label() -> None:
    turned = figures(
        [0, 0, 0, 0, 1, 1, 1],
        [[0.9], [0.8], [0.5], [0.2], [0.7], [0.1], [0.3]],
        labels=("pneumonia", "normal"),
    )
    assert turned["confusion_matrix"] == [[3, 1], [1, 2]]
    assert turned["sensitivity"] == 0.75


def test_two_softmax_outputs_are_judged_by_the_threshold() -> None:
    targets, scores = binary(60)
    pair = np.concatenate([1 - scores, scores], axis=1)
    assert figures(targets, pair, threshold=0.3) == figures(targets, scores, threshold=0.3)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_figures_from_weights_are_those_of_scikit_learn_on_the_resample(seed: int) -> None:
    targets, outputs = binary(70, seed=seed)
    scores, truth = outputs[:, 0], targets == 1
    called = scores >= 0.5
    (weights,) = draws(targets, groups=None, seed=seed, resamples=20)
    drawn = [np.repeat(np.arange(70), row.astype(int)) for row in weights]

    def each(figure: Callable[[Any], float]) -> list[float]:
        return [figure(places) for places in drawn]

    np.testing.assert_allclose(
        weighted_auc(truth, scores)(weights), each(lambda i: roc_auc_score(truth[i], scores[i]))
    )
    np.testing.assert_allclose(
        weighted_average_precision(truth, scores)(weights),
        each(lambda i: average_precision_score(truth[i], scores[i])),
    )
    np.testing.assert_allclose(
        weighted_f1(truth, called)(weights), each(lambda i: f1_score(truth[i], called[i]))
    )
    np.testing.assert_allclose(
        weighted_mean(called, truth)(weights), each(lambda i: called[i][truth[i]].mean())
    )


def test_expected_calibration_error_weighs_bins_by_their_pictures() -> None:
    right = np.array([True, True, False, True])
    confidence = np.array([0.95, 0.91, 0.15, 1.0])
    # Bin 10: 3 pictures, 0.14 / 3 off; bin 2: 1 picture, 0.15 off.
    value = weighted_ece(right, confidence, 10)(np.ones((1, 4)))
    assert value[0] == pytest.approx((0.14 + 0.15) / 4)


def test_resamples_keep_the_classes() -> None:
    targets = np.array([0] * 9 + [1] * 3)
    weights = np.concatenate(list(draws(targets, groups=None, seed=3, resamples=50)))
    assert weights.shape == (50, 12)
    assert set(weights[:, :9].sum(axis=1)) == {9.0}
    assert set(weights[:, 9:].sum(axis=1)) == {3.0}


def test_groups_are_drawn_whole_and_pictures_without_group_alone() -> None:
    targets = np.array([0, 0, 0, 1, 1, 1])
    groups = ["a", "a", "", "b", "c", "c"]
    weights = np.concatenate(list(draws(targets, groups=groups, seed=3, resamples=60)))
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 4] == weights[:, 5]).all()
    assert not (weights[:, 1] == weights[:, 2]).all()
    assert set(weights[:, [0, 2]].sum(axis=1)) == {2.0}


def test_drawing_groups_widens_the_interval_of_copies() -> None:
    targets, outputs = binary(40)
    many, copies = np.tile(targets, 5), np.tile(outputs, (5, 1))
    groups = [str(place % 40) for place in range(200)]
    apart = figures(many, copies)["ci95"]["auc"]
    together = figures(many, copies, groups=groups)
    assert together["resampled"] == "groups"
    low, high = together["ci95"]["auc"]
    assert high - low > 1.5 * (apart[1] - apart[0])


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator, covered = np.random.default_rng(11), 0
    for seed in range(100):
        found = generator.random(80) < 0.8
        statistic = {"share": weighted_mean(found)}
        interval = bootstrap(statistic, np.zeros(80, np.int64), seed=seed, resamples=300)["share"]
        assert interval is not None
        covered += interval[0] <= 0.8 <= interval[1]
    assert 87 <= covered <= 100


def test_the_seed_decides() -> None:
    targets, outputs = binary(50)
    assert figures(targets, outputs) == figures(targets, outputs)
    assert figures(targets, outputs)["ci95"] != figures(targets, outputs, seed=8)["ci95"]


def test_a_perfect_share_has_an_exact_interval() -> None:
    result = figures([1] * 9 + [0] * 9, [[0.9]] * 9 + [[0.1]] * 9)
    assert result["ci95"]["sensitivity"] == [pytest.approx(0.025 ** (1 / 9), abs=1e-6), 1.0]
    assert result["ci95"]["accuracy"][0] == pytest.approx(0.025 ** (1 / 18), abs=1e-6)
    assert set(result["ci95_exact"]) == {
        "accuracy",
        "sensitivity",
        "specificity",
        "precision",
        "recall",
        "f1",
        "auc",
        "average_precision",
    }


def test_no_finding_of_any_is_not_certain_either() -> None:
    missed = figures([1] * 9 + [0] * 9, [[0.1]] * 9 + [[0.9]] * 9)
    assert (missed["f1"], missed["ci95"]["f1"]) == (0.0, pytest.approx(exact(0, 9), abs=1e-6))
    false_alarms = figures([0] * 9, [[0.9]] * 6 + [[0.1]] * 3)
    assert false_alarms["f1"] == 0.0
    assert false_alarms["ci95"]["f1"] == pytest.approx(exact(0, 6), abs=1e-6)


@pytest.mark.parametrize("groups", [None, ["a"] * 6 + ["b"] * 6, ["a", "b", "c"] * 4])
def test_few_pictures_or_patients_have_wide_intervals_or_none(groups: list[str] | None) -> None:
    targets, outputs = [0, 1] * 6, [[0.9], [0.8], [0.2], [0.7], [0.6], [0.1]] * 2
    if groups is None:
        targets, outputs = targets[:4], outputs[:4]
    result = figures(targets, outputs, groups=groups)
    assert result["auc"] is not None
    assert 0 < result["accuracy"] < 1
    for name in ("auc", "f1", "average_precision"):
        assert result["ci95"][name] is None
    for name in ("accuracy", "sensitivity", "specificity"):
        low, high = result["ci95"][name]
        assert name in result["ci95_exact"]
        assert high - low > 0.6


def test_calls_that_are_all_alike_have_no_certain_accuracy() -> None:
    result = figures([0, 1] * 8, [[0.9], [0.8], [0.6], [0.7]] * 4)
    assert (result["accuracy"], result["sensitivity"], result["specificity"]) == (0.5, 1.0, 0.0)
    for name in ("accuracy", "precision"):
        assert result["ci95"][name] == pytest.approx(exact(8, 16), abs=1e-6)
        assert name in result["ci95_exact"]
    assert result["ci95"]["auc"][0] < result["auc"] < result["ci95"]["auc"][1]


def test_one_patient_more_than_few_is_resampled() -> None:
    targets, outputs = [0, 1] * 5, [[0.9], [0.8], [0.2], [0.7], [0.6], [0.1], [0.3]] * 2
    few = figures(targets[:9], outputs[:9])["ci95"]
    enough = figures(targets, outputs[:10])["ci95"]
    assert few["auc"] is None
    assert enough["auc"][0] < enough["auc"][1]


def test_a_perfect_order_of_few_pictures_is_not_certain() -> None:
    result = figures([1] * 4 + [0] * 30, [[0.9]] * 4 + [[0.1]] * 30)
    assert result["auc"] == 1.0
    assert result["ci95"]["auc"] == [pytest.approx(0.025 ** (1 / 4), abs=1e-6), 1.0]
    assert result["ci95"]["f1"] == result["ci95"]["sensitivity"]
    reversed_order = figures([0] * 4 + [1] * 30, [[0.9]] * 4 + [[0.1]] * 30)
    assert reversed_order["auc"] == 0.0
    assert reversed_order["ci95"]["auc"] == [0.0, pytest.approx(1 - 0.025 ** (1 / 4), abs=1e-6)]


def test_an_exact_interval_counts_groups_not_copies() -> None:
    groups = ["a", "a", "a", "b", "b", "c", "d", "d"]
    result = figures([1] * 5 + [0] * 3, [[0.9]] * 5 + [[0.1]] * 3, groups=groups)
    assert result["ci95"]["sensitivity"][0] == pytest.approx(exact(2, 2)[0], abs=1e-6)


def test_three_classes_go_by_the_most_probable_one() -> None:
    outputs = np.array(
        [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.45, 0.15, 0.4], [0.1, 0.2, 0.7], [0.1, 0.5, 0.4]]
    )
    targets = np.array([0, 1, 2, 2, 0])
    result = figures(targets, outputs, labels=THREE, positive="covid", threshold=0.4)
    assert result["confusion_matrix"] == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    assert result["accuracy"] == 0.6
    # At the threshold both covid pictures are found, and one normal one.
    assert result["sensitivity"] == 1.0
    assert result["precision"] == pytest.approx(2 / 3, abs=1e-6)
    macro = roc_auc_score(targets, outputs, multi_class="ovr", average="macro")
    assert result["auc"] == pytest.approx(macro, abs=1e-6)
    assert result["per_class"]["covid"]["sensitivity"] == 0.5
    assert result["per_class"]["normal"]["n"] == 2
    wanted = np.eye(3)[targets]
    assert result["brier"] == pytest.approx(((outputs - wanted) ** 2).sum(axis=1).mean(), abs=1e-6)


def test_each_of_two_labels_has_figures_of_its_own() -> None:
    targets, outputs = [0, 0, 0, 1, 1], [[0.1], [0.2], [0.7], [0.6], [0.3]]
    result = figures(targets, outputs)
    negative, positive = (result["per_class"][label] for label in result["labels"])
    shared = {name: result[name] for name in ("sensitivity", "specificity", "precision", "f1")}
    assert positive == {"n": 2, **shared, "auc": result["auc"]}
    third = pytest.approx(2 / 3, abs=1e-6)
    assert negative == {
        "n": 3,
        "sensitivity": third,
        "specificity": 0.5,
        "precision": third,
        "f1": third,
        "auc": result["auc"],
    }


def test_one_output_among_many_labels_is_the_finding_against_the_rest() -> None:
    result = figures([0, 2, 1], [[0.1], [0.8], [0.6]], labels=THREE, positive="covid")
    assert result["labels"] == ["not covid", "covid"]
    assert result["confusion_matrix"] == [[1, 1], [0, 1]]


@pytest.mark.parametrize(
    ("targets", "outputs", "nulls"),
    [
        ([], np.empty((0, 1)), set(FIGURES)),
        ([0] * 10, [[0.1], [0.9]] * 5, {"sensitivity", "recall", "auc", "average_precision"}),
        ([1] * 10, [[0.1], [0.9]] * 5, {"specificity", "auc", "average_precision"}),
        ([0, 1] * 5, [[0.01 * i] for i in range(10)], {"precision"}),
        (
            [0] * 5,
            [[0.1 * i] for i in range(5)],
            {"sensitivity", "recall", "auc", "average_precision", "precision", "f1"},
        ),
    ],
)
def test_what_cannot_be_computed_is_null_with_a_reason(
    targets: list[int], outputs: Any, nulls: set[str]
) -> None:
    result = figures(targets, outputs)
    assert {name for name in FIGURES if result[name] is None} == nulls
    assert set(result["undefined"]) == nulls
    assert {name for name in FIGURES if result["ci95"][name] is None} == nulls
    assert "NaN" not in json.dumps(result, allow_nan=False)


def test_the_macro_auc_is_that_of_the_classes_that_occur() -> None:
    outputs = [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.3, 0.4, 0.3]]
    result = figures([0, 1, 0], outputs, labels=THREE, positive="covid")
    assert result["auc_of"] == ["normal", "bacterial"]
    assert result["auc"] == 1.0
    assert result["per_class"]["covid"]["auc"] is None
    alone = figures([0, 0, 0], outputs, labels=THREE, positive="covid")
    assert (alone["auc"], alone["auc_of"]) == (None, [])
    assert alone["undefined"]["auc"] == "every picture has the label normal"
    assert figures([0, 1, 2], outputs, labels=THREE, positive="covid")["auc_of"] == list(THREE)


@pytest.mark.parametrize("bad", [np.nan, 1.5, -0.1])
def test_a_probability_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(BadInput, match="picture 2 of 3 has a probability that is no number"):
        figures([0, 1, 1], [[0.1], [bad], [0.4]])


def test_two_thousand_resamples_of_600_pictures_are_quick() -> None:
    targets, outputs = binary(600)
    started = time.process_time()
    figures(targets, outputs, resamples=2000)
    assert time.process_time() - started < 6
