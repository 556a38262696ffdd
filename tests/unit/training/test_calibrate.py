"""Calibration that calibrates, and operating points that keep what their names promise."""

from __future__ import annotations

import numpy as np
import pytest

from dicom_node.errors import BadInput
from dicom_node.score.calibration import calibrated
from training.calibrate import calibrate, operating_points


def test_sigmoid_calibration_recovers_a_known_temperature_and_bias() -> None:
    generator = np.random.default_rng(1)
    truth = generator.normal(0, 2, 20_000)
    targets = (generator.uniform(size=truth.size) < 1 / (1 + np.exp(-truth))).astype(np.int64)
    # Classes are equally frequent here, so weighting them equally changes nothing.
    found = calibrate((truth * 3 + 1.5)[:, None], targets, "sigmoid")
    assert found.temperature == pytest.approx(3, rel=0.05)
    assert found.bias == pytest.approx((-0.5,), abs=0.05)
    assert calibrated(np.array([[1.5]]), found)[0, 0] == pytest.approx(0.5, abs=0.02)


def test_softmax_calibration_recovers_a_known_temperature_and_biases() -> None:
    generator = np.random.default_rng(2)
    truth = generator.normal(0, 2, (30_000, 3))
    chances = np.exp(truth) / np.exp(truth).sum(axis=1, keepdims=True)
    draws = generator.uniform(size=(len(truth), 1))
    targets = (draws > np.cumsum(chances, axis=1)).sum(axis=1)
    shift = np.array([0.6, -0.2, -0.4])
    found = calibrate((truth - shift) * 2.5, targets, "softmax")
    assert found.function == "softmax"
    assert found.temperature == pytest.approx(2.5, rel=0.05)
    assert found.bias == pytest.approx(shift, abs=0.06)


def test_rare_classes_weigh_as_much_as_frequent_ones() -> None:
    generator = np.random.default_rng(3)
    targets = np.repeat([0, 1], [1900, 100])
    logits = generator.normal(targets * 2.0 - 1, 1)[:, None]
    found = calibrate(logits, targets, "sigmoid")
    assert found.bias == pytest.approx((0.0,), abs=0.3)


@pytest.mark.parametrize("function", ["sigmoid", "softmax"])
def test_separable_validation_sets_do_not_make_the_model_certain(function: str) -> None:
    targets = np.repeat([0, 1], 20)
    logits = np.where(targets[:, None] == [0, 1], 5.0, -5.0)
    found = calibrate(
        logits[:, 1:] if function == "sigmoid" else logits,
        targets,
        "sigmoid" if function == "sigmoid" else "softmax",
    )
    outputs = calibrated(logits[:, 1:] if function == "sigmoid" else logits, found)
    assert 0.9 < outputs.max() < 0.99


def test_logits_that_say_the_opposite_are_not_turned_round() -> None:
    targets = np.repeat([0, 1], 50)
    found = calibrate(np.where(targets == 1, -1.0, 1.0)[:, None], targets, "sigmoid")
    assert found.temperature > 50


def test_a_missing_class_is_an_error_that_says_so() -> None:
    with pytest.raises(BadInput, match="there are some of 0, 2 alone"):
        calibrate(np.zeros((3, 3)), np.array([0, 0, 2]), "softmax")


@pytest.mark.parametrize("distance", [0.5, 2.0, 6.0])
def test_operating_points_keep_their_promise_and_state_what_they_give(distance: float) -> None:
    generator = np.random.default_rng(4)
    positive = np.repeat([False, True], 500)
    scores = 1 / (1 + np.exp(-generator.normal((positive - 0.5) * distance, 1)))
    points = operating_points(scores, positive)
    assert [point["name"] for point in points] == [
        "high_sensitivity",
        "balanced",
        "high_specificity",
    ]
    thresholds = [point["threshold"] for point in points]
    assert thresholds == sorted(thresholds)
    assert points[0]["sensitivity"] >= 0.99
    assert points[2]["specificity"] >= 0.98
    assert points[1]["sensitivity"] == pytest.approx(points[1]["specificity"], abs=0.01)
    for point in points:
        called = scores >= point["threshold"]
        assert called[positive].mean() == pytest.approx(point["sensitivity"], abs=1e-4)
        assert (~called)[~positive].mean() == pytest.approx(point["specificity"], abs=1e-4)


def test_the_sensitive_threshold_is_the_highest_that_is_sensitive_enough() -> None:
    scores = np.linspace(0.1, 0.9, 200)
    positive = np.arange(200) % 2 == 1
    sensitive = operating_points(scores, positive)[0]
    next_positive = scores[positive][scores[positive] > sensitive["threshold"]][0]
    assert (scores[positive] > next_positive).mean() < 0.99


def test_no_threshold_lies_at_the_ends() -> None:
    positive = np.array([False] * 5 + [True] * 5)
    for scores in (np.full(10, 0.999), np.full(10, 0.001), positive.astype(float)):
        for point in operating_points(scores, positive):
            assert 0.02 <= point["threshold"] <= 0.98
