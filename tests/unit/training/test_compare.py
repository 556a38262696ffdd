"""DeLong and McNemar give the published numbers; models are compared on the same pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dicom_node.errors import BadInput
from dicom_node.score.bundle import read_bundle
from tests.unit.training.tiny import Drawn, drawn, joined, tiny_model
from training.compare import compare, delong, mcnemar, render
from training.predict import Predicted, predict
from training.recipes import RECIPES


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models for pneumonia and two for three classes, whose main findings differ."""
    place: Path = tmp_path_factory.mktemp("models")
    findings = RECIPES["cxr_covid3"].findings
    return {
        "first": tiny_model(place / "first", seed=4),
        "second": tiny_model(place / "second", seed=5),
        "three": tiny_model(place / "three", "cxr_covid3"),
        "other": tiny_model(
            place / "other", "cxr_covid3", positive="pneumonia_bac", findings=findings[::-1]
        ),
    }


@pytest.fixture
def source() -> Drawn:
    return drawn(("normal", "pneumonia"), 30)


def test_delong_variance_is_that_of_its_definition() -> None:
    # DeLong et al. 1988, equations 4 to 6, by counting every pair.
    generator = np.random.default_rng(1)
    truth = np.array([True] * 9 + [False] * 14)
    scores = np.round(generator.normal(truth * 0.8, 1, (2, 23)), 1)
    areas, covariance = delong(truth, scores)
    pairs = scores[:, truth, np.newaxis] - scores[:, np.newaxis, ~truth]
    wins = (pairs > 0) + 0.5 * (pairs == 0)
    ten, one = wins.mean(axis=2), wins.mean(axis=1)
    np.testing.assert_allclose(areas, wins.mean(axis=(1, 2)))
    np.testing.assert_allclose(covariance, np.cov(ten) / 9 + np.cov(one) / 14)
    assert areas[0] == pytest.approx(roc_auc_score(truth, scores[0]))


def test_delong_agrees_with_many_repetitions_of_the_experiment() -> None:
    generator = np.random.default_rng(2)
    truth = np.array([True] * 40 + [False] * 60)
    shared = generator.normal(size=(1500, 1, 100))
    scores = truth * 1.0 + 0.7 * shared + 0.7 * generator.normal(size=(1500, 2, 100))
    estimates = [delong(truth, one) for one in scores]
    areas = np.stack([area for area, _ in estimates])
    expected = np.mean([covariance for _, covariance in estimates], axis=0)
    np.testing.assert_allclose(np.cov(areas.T), expected, rtol=0.15)


def test_mcnemar_is_the_binomial_test_of_differing_answers() -> None:
    first = np.array([True] * 9 + [False] + [True] * 5)
    second = np.array([False] * 9 + [True] + [True] * 5)
    # 2 * (1 + 10) / 2 ** 10
    assert mcnemar(first, second) == {
        "only_first_right": 9,
        "only_second_right": 1,
        "p": 0.021484,
    }
    assert mcnemar(first, first)["p"] == 1.0


def test_two_models_are_measured_on_the_same_pictures(
    models: dict[str, Path], source: Drawn
) -> None:
    result = compare([models["first"], models["second"]], source, split="test")
    assert (result["n"], result["n_positive"]) == (30, 15)
    assert [model["name"] for model in result["models"]] == ["first", "second"]
    (pair,) = result["pairs"]
    first, second = result["models"]
    assert pair["auc_difference"] == pytest.approx(first["auc"] - second["auc"], abs=1e-5)
    low, high = pair["ci95"]
    assert low < pair["auc_difference"] < high
    assert (pair["p"] < 0.05) == (low > 0 or high < 0)
    alone = pair["mcnemar"]
    gained = (first["accuracy"] - second["accuracy"]) * 30
    assert alone["only_first_right"] - alone["only_second_right"] == pytest.approx(gained, abs=1e-3)


def test_a_model_does_not_differ_from_itself(models: dict[str, Path], source: Drawn) -> None:
    result = compare([models["first"], models["first"]], source, split="test")
    (pair,) = result["pairs"]
    assert (pair["auc_difference"], pair["p"], pair["mcnemar"]["p"]) == (0.0, 1.0, 1.0)
    assert pair["models"] == ["first"] * 2


def test_the_table_names_models_figures_and_tests(models: dict[str, Path], source: Drawn) -> None:
    result = compare([models["first"], models["second"]], source, split="test")
    text = render(result)
    assert "drawn, split test: n 30, of them 15 with the finding" in text
    assert "first - second" in text
    assert f"{result['models'][0]['auc']:.3f} (" in text
    assert "p (DeLong)" in text
    assert "\x1b" not in text


def test_models_for_different_findings_are_not_compared(models: dict[str, Path]) -> None:
    source = drawn(("normal", "pneumonia_bac", "covid"), 30)
    with pytest.raises(BadInput, match="three looks for covid and other for pneumonia_bac"):
        compare([models["three"], models["other"]], source, split="test")


def test_labels_that_only_one_model_knows_are_left_out(models: dict[str, Path]) -> None:
    source = joined(drawn(("normal", "pneumonia"), 12), drawn(("normal", "covid"), 12, start=100))
    # What both know is normal: there is nothing to tell apart.
    with pytest.raises(BadInput, match="two or more pictures with pneumonia"):
        compare([models["first"], models["three"]], source, split="test")
    with pytest.raises(BadInput, match="no picture whose label all models know"):
        compare([models["first"], models["three"]], drawn(("pneumonia", "covid"), 6), split="test")
    with pytest.raises(BadInput, match="normal=pneumonia_bac: first has no label 'pneumonia_bac'"):
        compare(
            [models["first"], models["three"]],
            source,
            split="test",
            label_map={"normal": "pneumonia_bac"},
        )


def test_pictures_that_not_every_model_knows_are_counted_and_shown(
    models: dict[str, Path], source: Drawn
) -> None:
    foreign = joined(source, drawn(("covid", "[none]"), 5, start=100))
    result = compare([models["first"], models["second"]], foreign, split="test")
    assert (result["n"], result["unknown_labels"]) == (30, {"[none]": 2, "covid": 3})
    text = render(result)
    assert "left out, not known to every model: label covid, n 3\n" in text
    assert "left out, not known to every model: label [none], n 2\n" in text
    known = compare([models["first"], models["second"]], source, split="test")
    assert known["unknown_labels"] == {}
    assert "left out" not in render(known)


def test_what_only_one_model_does_not_know_is_counted_wherever_it_stands(
    models: dict[str, Path], tmp_path: Path
) -> None:
    sick = tiny_model(tmp_path / "sick", "vgg16_covid_cxr")
    labels = read_bundle(sick).metadata.dicom_node.labels
    source = joined(drawn(labels, 20), drawn(("pneumonia_bac",), 3, start=100))
    for folders in ([models["three"], sick], [sick, models["three"]]):
        result = compare(folders, source, split="test")
        assert (result["n"], result["unknown_labels"]) == (20, {"pneumonia_bac": 3})


def test_problems_are_those_of_every_model_each_said_once(
    models: dict[str, Path], source: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = iter([("a.png is torn",), ("a.png is torn", "b.png is no film")])

    def predicted(*args: Any, **settings: Any) -> Predicted:
        return replace(predict(*args, **settings), unreadable=next(faults))

    monkeypatch.setattr("training.compare.predict", predicted)
    torn = replace(source, problems=("list.csv line 3: not 3 columns",))
    result = compare([models["first"], models["second"]], torn, split="test")
    assert result["problems"] == ["a.png is torn", "b.png is no film", *torn.problems]


def test_one_model_alone_is_not_compared(models: dict[str, Path], source: Drawn) -> None:
    with pytest.raises(BadInput, match="two or more model folders"):
        compare([models["first"]], source, split="test")


def test_no_difference_of_areas_is_beyond_one(models: dict[str, Path]) -> None:
    few = drawn(("normal", "pneumonia"), 4, start=64)
    (pair,) = compare([models["first"], models["second"]], few, split="test")["pairs"]
    assert pair["auc_difference"] == 0.5
    assert -1 < pair["ci95"][0] < pair["auc_difference"] < pair["ci95"][1] == 1
