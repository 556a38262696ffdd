"""Recipes are valid, say what was published, and refuse what cannot be."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from dicom_node.errors import BadInput
from dicom_node.score.manifest import ARCHITECTURE_NAMES, Aggregation, IntendedUse
from dicom_node.score.transforms import Pipeline
from training.changes import customised, overridden
from training.recipes import RECIPES, SHIPPED
from training.recipes.base import Finding, Phase, Recipe, SplitPlan
from training.recipes.common import LITE_TENSOR
from training.runs import described

REPRODUCTIONS = {
    "vgg16_covid_cxr": ("VGG16", "covid25_cxr", 25, 8, 224),
    "inceptionv3_covid3_cxr": ("InceptionV3", "covid3_cxr", 50, 8, 256),
    "resnet50_pneumonia_cxr": ("ResNet50", "pneumonia_cxr", 18, 64, 299),
    "cnn_scratch_pneumonia_cxr": ("FiveBlockCNN", "pneumonia_cxr", 10, 32, 160),
    "efficientnetb0_covid_ct": ("EfficientNetB0", "covid_ct", 80, 32, 224),
}


def test_the_five_systems_and_the_three_shipped_models_are_there() -> None:
    assert set(RECIPES) == {*REPRODUCTIONS, *SHIPPED}


@pytest.mark.parametrize(("name", "expected"), REPRODUCTIONS.items())
def test_reproductions_have_the_published_settings(
    name: str, expected: tuple[str, str, int, int, int]
) -> None:
    recipe = RECIPES[name]
    side = recipe.preprocessing.rows
    found = (recipe.architecture, recipe.data_set, recipe.epochs, recipe.batch_size, side)
    assert found == expected
    assert recipe.published
    assert recipe.system


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_every_recipe_can_become_a_model_folder(recipe: Recipe) -> None:
    IntendedUse.model_validate(recipe.intended_use)
    if recipe.aggregation:
        Aggregation.model_validate(recipe.aggregation)
    assert recipe.architecture in ARCHITECTURE_NAMES
    lite = recipe.architecture.startswith("EfficientNetLite")
    assert not lite or recipe.preprocessing.rows % 32 == 0
    Pipeline(recipe.preprocessing)
    # As read again from JSON: nothing in it is a Python object.
    assert json.loads(json.dumps(described(recipe))) == described(recipe)


def test_the_confounded_sets_say_so_first() -> None:
    for recipe in RECIPES.values():
        if recipe.data_set in ("covid3_cxr", "covid25_cxr"):
            assert "confounded" in recipe.limits[0].partition(".")[0]
            assert "no clinical use" in recipe.intended_use["statement"]
            assert "research only" in recipe.license


@pytest.mark.parametrize("side", ["0", "-5", "15", "2049", "10000000"])
def test_sides_that_no_network_or_memory_takes_are_refused(side: str) -> None:
    with pytest.raises(BadInput, match=f"side {side} must be from 16 to 2048"):
        customised(RECIPES["cxr_pneumonia"], changes={"side": side}, fallback=False)


def test_own_data_have_words_of_their_own() -> None:
    base = RECIPES["cxr_pneumonia"]
    kept = customised(base, changes={}, fallback=False, own_data="films")
    assert kept.title == "Pneumonia on frontal chest radiographs, trained on films"
    assert kept.intended_use["age_years"] == [1, 5]
    said = "probability of Pneumonia on frontal chest radiographs of patients of 1 to 5 years"
    assert said in kept.intended_use["statement"]
    adults = customised(base, changes={"age": "18-120"}, fallback=False, own_data="films")
    assert adults.intended_use["age_years"] == [18, 120]
    assert "18 to 120 years" in adults.intended_use["statement"]
    anyone = customised(base, changes={"age": "any"}, fallback=False, own_data="films")
    assert anyone.intended_use["age_years"] is None
    assert "years" not in anyone.intended_use["statement"]
    other = customised(
        base, changes={"architecture": "FiveBlockCNN", "weights": "none"}, fallback=False,
        own_data="films",
    )  # fmt: skip
    assert "FiveBlockCNN (none)" in other.license_text
    assert other.subgroups == ()
    slices = customised(RECIPES["ct_covid"], changes={}, fallback=False, own_data="films")
    assert slices.keep({"label_flag": "doubtful"})
    assert any("single slices" in limit for limit in slices.limits)
    assert not any("single slices" in limit for limit in other.limits)
    for recipe in (kept, adults, anyone):
        IntendedUse.model_validate(recipe.intended_use)
    confounded = customised(RECIPES["cxr_covid3"], changes={}, fallback=False, own_data="films")
    assert "confounded" not in confounded.title + confounded.intended_use["statement"]


@pytest.mark.parametrize("text", ["18", "60-18", "0-151", "18-", "-5", "18-120y", "none"])
def test_ages_that_are_no_range_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match=f"--set age={text}: write LOW-HIGH in years up to 150"):
        overridden(RECIPES["cxr_pneumonia"], {"age": text})


def test_the_fallback_keeps_the_schedule_and_changes_the_backbone() -> None:
    base = RECIPES["vgg16_covid_cxr"]
    changed = customised(base, name="mine", changes={"epochs": "1"}, fallback=True)
    assert (changed.name, changed.architecture) == ("mine", "EfficientNetLite0")
    assert changed.title.endswith("; EfficientNetLite0 stands in for VGG16")
    assert changed.phases == (replace(base.phases[0], epochs=1),)
    assert changed.preprocessing.tensor == LITE_TENSOR
    larger = customised(RECIPES["resnet50_pneumonia_cxr"], changes={}, fallback=True)
    assert larger.preprocessing.rows == larger.preprocessing.columns == 288, "299 is no multiple"
    assert larger.preprocessing.display[0].arguments == {"rows": 288, "columns": 288}
    scratch = RECIPES["cnn_scratch_pneumonia_cxr"]
    assert customised(scratch, changes={}, fallback=True) == scratch


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": ("normal",)}, "two or more different labels"),
        ({"positive": "tumour"}, "'tumour' is not among"),
        ({"labels": ("pneumonia", "normal")}, "the positive one last"),
        ({"phases": ()}, "needs a phase"),
        ({"batch_size": 1}, "batch_size 1"),
        ({"ema": 1.0}, "ema"),
        ({"seed": -1}, "seed -1 must be from 0 to 4294967295"),
        ({"seed": 2**32}, "seed 4294967296 must be"),
        ({"lung_attention": math.nan}, "lung_attention must be 0 or more and finite"),
        ({"phases": (Phase(epochs=1, rates=math.inf),)}, "rates must be finite"),
        ({"teachers": 1}, "teachers must be 0, or 2 or more"),
        ({"teachers": 3, "teacher_weight": 0.0}, "teacher_weight must be in"),
        ({"teachers": 3, "teacher_weight": 1.1}, "teacher_weight must be in"),
        ({"aggregation": {"slices": 3}}, "kind ct_series"),
        ({"optimizer": "lion"}, "'lion' is not one of adam"),
        ({"findings": (Finding("other", ("1", "2", "3"), ("1", "2", "3")),)}, "first finding"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        replace(RECIPES["cxr_pneumonia"], **changes)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Phase(epochs=0, rates=1e-3), "1 or more epochs"),
        (lambda: Phase(epochs=1, rates=(1e-3, 1e-2, 1e-1)), "rates"),
        (lambda: Phase(epochs=1, rates=-1.0), "rates"),
        (lambda: Phase(epochs=1, rates=1.0, trained_groups=0), "trained_groups"),
        (lambda: Phase(epochs=1, rates=1.0, schedule="steps"), "schedule 'steps'"),  # type: ignore[arg-type]
        (lambda: SplitPlan("official", validation=1.0), "validation share"),
        (lambda: SplitPlan("official", folds=5, fold=5), "fold 5"),
        (lambda: SplitPlan("random"), "split kind 'random'"),  # type: ignore[arg-type]
    ],
)
def test_phases_and_splits_that_cannot_be_are_refused(make: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        make()
