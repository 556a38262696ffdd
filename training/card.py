"""The model card: what a person must know before trusting a score.

In the order of Mitchell et al. 2019, "Model Cards for Model Reporting" (arXiv:1810.03993).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.card_figures import (
    attention,
    data_options,
    evidence,
    gate,
    groups,
    share_shown,
    thresholds,
)
from training.recipes.base import Recipe

_WHOLE, _BORDER = "whole picture", "border of 10 % alone"


def card(recipe: Recipe, metadata: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Markdown text of `docs/README.md`; every number comes from `metadata` and `report`."""
    section = metadata["dicom_node"]
    parts = [
        [f"# {recipe.title}", ""],
        _first_words(recipe, report),
        ["", "## Model", *_model(recipe, metadata, report)],
        ["", "## Intended use", *_use(section["intended_use"])],
        ["", "## Evidence", *evidence(recipe, report), "", *thresholds(recipe, section, report)],
        ["", "## Groups", *groups(report)],
        ["", "## What the scope gate refuses", *gate(recipe, section, report)],
        ["", "## What the model looks at", *attention(recipe, report)],
        ["", "## Known flaws", *(f"- {limit}" for limit in recipe.limits)],
        ["", "## Data and licence", *_data(recipe)],
        ["", "## Training", *_training(recipe, section, report), ""],
    ]
    return "\n".join(line for part in parts for line in part)


def _first_words(recipe: Recipe, report: Mapping[str, Any]) -> list[str]:
    """What confounds the data comes before anything else, where it was measured."""
    measured = report.get("confounding")
    if not measured:
        return [str(recipe.intended_use["statement"])]
    told = [
        f"of the {_counted(measured, split)} {_told_apart(measured, split)}"
        for split in ("train", "test")
        if split in measured["chance"]
    ]
    return [
        f"Its data are confounded: {recipe.confounded_by}{'; ' if recipe.confounded_by else ''}"
        f"without any lung, {', and '.join(told)}; so the figures below measure where a picture "
        "comes from, not disease.",
        "",
        str(recipe.intended_use["statement"]),
    ]


def _counted(measured: Mapping[str, Any], split: str) -> str:
    figure = next(iter(measured["accuracy"][_BORDER].values()))[split]
    how = "training pictures (cross-validated by patient)" if split == "train" else "test pictures"
    return f"{figure['n']} {how}"


def _told_apart(measured: Mapping[str, Any], split: str) -> str:
    """The share that parts without lungs give, the border's first, each by its best features."""
    by_part = {
        part: max((kind[split] for kind in kinds.values()), key=lambda figure: figure["accuracy"])
        for part, kinds in measured["accuracy"].items()
        if part != _WHOLE
    }
    border = by_part.pop(_BORDER)
    part, other = max(by_part.items(), key=lambda item: item[1]["accuracy"])
    more = f" and {share_shown(other)} by {part}" if other["accuracy"] > border["accuracy"] else ""
    return (
        f"{share_shown(border)} are told apart by the {_BORDER}{more}, where chance gives "
        f"{measured['chance'][split]:.2f}"
    )


def _model(recipe: Recipe, metadata: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    shape = recipe.preprocessing
    return [
        f"`{report['model']}` {metadata['version']}: {recipe.architecture}, input {shape.rows} x "
        f"{shape.columns}, outputs {', '.join(recipe.outputs)} ({recipe.function}). "
        f"Licence: {recipe.license}.",
    ]


def _use(use: Mapping[str, Any]) -> list[str]:
    lines = [f"- Modality: {', '.join(use['modalities'])}; body: {', '.join(use['body_parts'])}"]
    if use.get("view_positions"):
        lines.append(f"- View: {', '.join(use['view_positions'])}")
    if use.get("age_years"):
        low, high = use["age_years"]
        known = "" if use.get("age_must_be_known", True) else "; an unknown age is remarked"
        lines.append(f"- Age: {low} to {high} completed years{known}")
    lines.append("- Anything else is not analysed, or is marked where a route says so.")
    return lines


def _data(recipe: Recipe) -> list[str]:
    return [
        f"{recipe.data_title}. {f'{recipe.citation}. ' if recipe.citation else ''}"
        f"Licence: {recipe.license}. Details: "
        "`data_license.txt`. No image of the data set is in this folder; the golden images are "
        "drawn by a formula.",
    ]


def _training(recipe: Recipe, section: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    bias = ", ".join(f"{value:.4f}" for value in section["calibration"]["bias"])
    made = report.get("made_from") or {"recipe": recipe.name}
    epochs = f"{recipe.epochs} epoch{'s' if recipe.epochs > 1 else ''} at most"
    if recipe.members > 1:
        epochs = f"the mean weights of {recipe.members} trainings of {epochs} each"
    if recipe.imitation_epochs:
        epochs += (
            f", after {recipe.imitation_epochs} without labels in which it learned to see the "
            "training slices as a network of whole CT series does (`data_license.txt`)"
        )
    if recipe.teachers:
        epochs += (
            f", taught by labels and, at a share of {recipe.teacher_weight:g}, by "
            f"{recipe.teachers} trainings that each left out another fold of the training pictures"
        )
    if report.get("domains"):
        epochs += f", and {len(report['domains'])} more without one domain each for the thresholds"
    lines = [
        f"Recipe `{made['recipe']}`: {epochs}, batch {recipe.batch_size}, "
        f"{recipe.optimizer}, initial weights: {_began_at(recipe, report)}; the best validation "
        f"epoch was kept. Probabilities: {recipe.function}(logits / "
        f"{section['calibration']['temperature']:.4f} + [{bias}]), fitted on validation for "
        "equally frequent classes. Heat map: Grad-CAM, computed in the forward pass. bfloat16 "
        f"changes a validation probability by at most {section['bfloat16_deviation']}.",
    ]
    timing = report.get("training")
    if timing:
        lines += [
            "",
            f"It took {_duration(timing['seconds'])} on {timing['processor']} "
            f"({timing['device']}): about {timing['energy_kwh']:.2g} kWh and "
            f"{timing['carbon_kg']:.2g} kg CO2, assuming {timing['watts_assumed']:.0f} W and "
            f"{timing['kg_co2_per_kwh_assumed']} kg/kWh.",
        ]
    first = report.get("started_from")
    before = f"`python -m training fit {first}`, then " if first else ""
    own = made.get("own_data")
    where = f", DATA being where {own} lies" if own else ""
    return [*lines, "", f"Train again: {before}`{_command(made)}` (seed {recipe.seed}){where}."]


def _began_at(recipe: Recipe, report: Mapping[str, Any]) -> str:
    """The published weights, or the run whose backbone was taken instead."""
    first = report.get("started_from")
    return (
        f"those of the run `{first}`, whose own training is not in the time"
        if first
        else (recipe.weights)
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def _command(made: Mapping[str, Any]) -> str:
    """What to type for the same training; a person's own data lie wherever she keeps them."""
    words = ["python -m training fit", made["recipe"]]
    if made.get("own_data"):
        words.append("--data DATA")
    if made.get("name", made["recipe"]) != made["recipe"]:
        words.append(f"--name {made['name']}")
    words += data_options(made)
    words += [f"--set {key}={value}" for key, value in made.get("set", {}).items()]
    return " ".join([*words, "--fallback"] if made.get("fallback") else words)
