"""The card says the worst first and states no number that was not measured."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from training.card import card
from training.recipes import RECIPES

RECIPE = RECIPES["cxr_covid3"]
POINT = {"name": "balanced", "threshold": 0.4321, "sensitivity": 0.91, "specificity": 0.92}
METADATA: dict[str, Any] = {
    "version": "0.2.0",
    "dicom_node": {
        "intended_use": RECIPE.intended_use,
        "findings": [{"label": "covid", "threshold": 0.4321, "operating_points": [POINT]}],
        "calibration": {"temperature": 1.5, "bias": [0.1, 0.2, -0.3]},
        "scope_gate": {"limit": 1.7654, "refused_validation": 0.01},
        "bfloat16_deviation": 0.0123,
    },
}
REPORT: dict[str, Any] = {
    "model": "cxr_covid3",
    "threshold": 0.4321,
    "splits": {
        "test": {
            "n": 27,
            "auc": 0.987,
            "accuracy": 1.0,
            "sensitivity": None,
            "ci95": {"auc": [0.9, 1.0], "accuracy": [0.8723, 1.0], "sensitivity": None},
            "refused_fraction": 0.037,
        }
    },
    "subgroups": {
        "source": {"here": {"n": 9, "n_positive": 4, "accuracy": 0.5, "ci95": [0.2, 0.8]}}
    },
    "scope_gate": {
        "validation": {"n": 50, "refused": 0.021, "outside": False},
        "inverted": {"n": 50, "refused": 0.981, "outside": True, "named": 0.94},
    },
    "inside_lungs": {"n": 8, "left_out": 1, "inside": 0.616, "by_chance": 0.25},
    "map_correlation_randomised": 0.0712,
    "confounding": None,
    "training": {
        "seconds": 900.0,
        "device": "cpu",
        "processor": "a processor",
        "watts_assumed": 100.0,
        "energy_kwh": 0.025,
        "kg_co2_per_kwh_assumed": 0.4,
        "carbon_kg": 0.01,
    },
}


def share(test: float, train: float) -> dict[str, Any]:
    """A measured accuracy on both splits."""
    return {
        "test": {"n": 27, "accuracy": test, "ci95": [0.7, 0.98]},
        "train": {"n": 199, "accuracy": train, "ci95": [0.6, 0.99]},
    }


def test_every_figure_of_the_report_is_in_the_card() -> None:
    text = card(RECIPE, METADATA, REPORT)
    for figure in (
        "0.987 (0.900 to 1.000)",
        "1.000 (0.872 to 1.000)",
        "3.7%",
        "0.4321",
        "| validation | 50 | no | 2.1% |  |",
        "| inverted | 50 | yes | 98.1% | 94.0% |",
        "62% lies inside the lungs",
        "0.07",
        "0.50 (0.20 to 0.80)",
        "15 minutes on a processor",
        "0.025 kWh",
    ):
        assert figure in text
    for limit in RECIPE.limits:
        assert limit in text
    assert RECIPE.citation in text


def test_the_first_sentence_says_what_confounds_the_data() -> None:
    report = copy.deepcopy(REPORT)
    report["confounding"] = {
        "chance": {"train": 0.35, "test": 0.33},
        "accuracy": {
            "whole picture": {"pixels": share(0.99, 0.99)},
            "border of 10 % alone": {"pixels": share(0.78, 0.8), "features": share(0.89, 0.81)},
            "central 70 % masked out": {"pixels": share(0.88, 0.92)},
            "trivial numbers": {"numbers": share(0.7, 0.7)},
        },
    }
    recipe = replace(RECIPE, confounded_by="ill are tall, well are short")
    first = card(recipe, METADATA, report).splitlines()[2]
    assert first.startswith("Its data are confounded: ill are tall, well are short; without any")
    assert (
        "of the 199 training pictures (cross-validated by patient) 0.81 (0.60 to 0.99) are told "
        "apart by the border of 10 % alone and 0.92 (0.60 to 0.99) by central 70 % masked out, "
        "where chance gives 0.35"
    ) in first
    assert (
        "of the 27 test pictures 0.89 (0.70 to 0.98) are told apart by the border of 10 % alone, "
        "where chance gives 0.33"
    ) in first, "no part tells more than the border, so none is named beside it"


def test_one_operating_point_is_in_use_also_where_thresholds_coincide() -> None:
    metadata = copy.deepcopy(METADATA)
    (finding,) = metadata["dicom_node"]["findings"]
    finding["operating_points"] = [
        POINT | {"name": name} for name in ("high_sensitivity", "balanced", "high_specificity")
    ]
    lines = card(RECIPE, metadata, REPORT).splitlines()
    assert [line for line in lines if "(in use)" in line] == [
        "| covid | balanced (in use) | 0.4321 | 0.910 | 0.920 |"
    ]
    told = "The points of covid are one"
    assert any(line.startswith(told) for line in lines)
    finding["operating_points"][0]["threshold"] = 0.1
    assert told not in card(RECIPE, metadata, REPORT)


def test_where_a_run_began_at_another_one_the_card_says_so() -> None:
    assert "initial weights: pypi;" in card(RECIPE, METADATA, REPORT)
    text = card(RECIPE, METADATA, REPORT | {"started_from": "other_run"})
    assert "initial weights: those of the run `other_run`, whose own training is not" in text
    assert "Train again: `python -m training fit other_run`, then `python -m training fit" in text


def test_the_command_to_train_again_is_the_one_that_was_typed() -> None:
    made = {
        "recipe": "cxr_covid3",
        "name": "ours",
        "set": {"epochs": "3"},
        "fallback": True,
        "own_data": "films",
    }
    text = card(RECIPE, METADATA, REPORT | {"made_from": made})
    words = "fit cxr_covid3 --data DATA --name ours --set epochs=3 --fallback`"
    assert f"python -m training {words} (seed {RECIPE.seed}), DATA being where films lies" in text
    assert "python -m training fit cxr_covid3`" in card(RECIPE, METADATA, REPORT)


def test_words_that_a_recipe_does_not_have_leave_no_trace() -> None:
    text = card(replace(RECIPE, citation="", members=3), METADATA, REPORT)
    assert ". ." not in text
    assert "the mean weights of 3 trainings" in text
    assert "taught by" not in text


def test_a_card_says_who_taught_the_model() -> None:
    text = card(replace(RECIPE, teachers=5, teacher_weight=0.8), METADATA, REPORT)
    assert "at a share of 0.8, by 5 trainings that each left out another fold" in text


def test_a_card_says_what_was_imitated() -> None:
    text = card(
        replace(RECIPE, kind="ct_series", aggregation={}, imitation_epochs=7), METADATA, REPORT
    )
    assert "after 7 without labels in which it learned to see" in text
    assert "without labels" not in card(RECIPE, METADATA, REPORT)


@pytest.mark.parametrize("missing", ["training", "inside"])
def test_what_was_not_measured_is_not_stated(missing: str) -> None:
    report = copy.deepcopy(REPORT)
    if missing == "training":
        report["training"] = None
    else:
        report["inside_lungs"]["inside"] = None
    text = card(RECIPE, METADATA, report)
    assert "None" not in text
    assert "nan" not in text


def test_of_three_labels_a_card_says_which_is_taken_for_which() -> None:
    report = copy.deepcopy(REPORT)
    assert "mean over the labels" not in card(RECIPE, METADATA, report)
    own = {"sensitivity": 1.0, "specificity": 0.75, "precision": None, "f1": 0.5}
    report["splits"]["test"] |= {
        "confusion_matrix": [[9, 0, 0], [0, 6, 3], [1, 0, 8]],
        "per_class": {
            label: {"n": 9, "auc": area, **own}
            for label, area in zip(RECIPE.labels, (0.999, 0.95, 0.9), strict=True)
        },
    }
    written = card(RECIPE, METADATA, report)
    assert "mean over the labels" in written
    assert "the other figures are those of covid at its threshold" in written
    middle = RECIPE.labels[1]
    assert f"| {middle} | 9 | 0 | 6 | 3 | 0.950 | 1.000 | 0.750 | undefined |" in written
