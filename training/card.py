"""The model card: what a person must know before trusting a score.

In the order of Mitchell et al. 2019, "Model Cards for Model Reporting" (arXiv:1810.03993).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from training.recipes.base import Recipe
from training.shortcuts import PARTS_SHOWN

_SPLITS = {
    "validation": "validation (out of the training split)",
    "test": "official test split",
    "test_strict": "official test split without doubtful labels, copies and relatives",
}
_METRICS = ("auc", "accuracy", "sensitivity", "specificity", "precision", "f1")
_OF_A_LABEL = ("auc", "sensitivity", "specificity", "precision")
_WHOLE, _BORDER = "whole picture", "border of 10 % alone"


def card(recipe: Recipe, metadata: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Markdown text of `docs/README.md`; every number comes from `metadata` and `report`."""
    section = metadata["dicom_node"]
    parts = [
        [f"# {recipe.title}", ""],
        _first_words(recipe, report),
        ["", "## Model", *_model(recipe, metadata, report)],
        ["", "## Intended use", *_use(section["intended_use"])],
        ["", "## Evidence", *_evidence(recipe, report), "", *_thresholds(recipe, section, report)],
        ["", "## Groups", *_groups(report)],
        ["", "## What the scope gate refuses", *_gate(recipe, section, report)],
        ["", "## What the model looks at", *_attention(recipe, report)],
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
    more = f" and {_share(other)} by {part}" if other["accuracy"] > border["accuracy"] else ""
    return (
        f"{_share(border)} are told apart by the {_BORDER}{more}, where chance gives "
        f"{measured['chance'][split]:.2f}"
    )


def _share(figure: Mapping[str, Any]) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(figure["accuracy"], *figure["ci95"])


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


def _evidence(recipe: Recipe, report: Mapping[str, Any]) -> list[str]:
    rows = []
    for split, figures in report["splits"].items():
        cells = [_cell(figures, metric) for metric in _METRICS]
        refused = f"{figures['refused_fraction']:.1%}"
        rows.append([_SPLITS[split], str(figures["n"]), *cells, refused])
    return [
        *_table(["images", "n", *_METRICS, "refused"], rows),
        "",
        f"95 % intervals. Every image counts, refused by the scope gate or not. Threshold "
        f"{report['threshold']}, chosen {_where_chosen(report)}. Produced by "
        "`python -m training export`; again by "
        f"`python -m training evaluate {report['model']} {recipe.data_set}`.",
        *_by_label(recipe, report),
    ]


def _by_label(recipe: Recipe, report: Mapping[str, Any]) -> list[str]:
    """What figures of three labels or more mean, and which label is taken for which."""
    split = "test" if "test" in report["splits"] else "validation"
    figures = report["splits"].get(split, {})
    if len(figures.get("per_class", ())) < 3:
        return []
    rows = [
        [label, str(own["n"]), *map(str, calls), *(_figure(own[name]) for name in _OF_A_LABEL)]
        for (label, own), calls in zip(
            figures["per_class"].items(), figures["confusion_matrix"], strict=True
        )
    ]
    called = [f"called {label}" for label in figures["per_class"]]
    return [
        "",
        "In this table auc is the mean over the labels, each against the rest, and accuracy asks "
        f"for the most probable label; the other figures are those of {recipe.positive} at its "
        f"threshold. Each label on the {_SPLITS[split]}, the most probable one called:",
        "",
        *_table(["label", "n", *called, *_OF_A_LABEL], rows),
    ]


def _cell(figures: Mapping[str, Any], metric: str) -> str:
    value, interval = figures.get(metric), figures["ci95"].get(metric)
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def _thresholds(recipe: Recipe, section: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            finding["label"],
            # By name: where the classes separate cleanly, several points have one threshold.
            point["name"].replace("_", " ")
            + (" (in use)" if point["name"] == recipe.operating_point else ""),
            str(point["threshold"]),
            f"{point['sensitivity']:.3f}",
            f"{point['specificity']:.3f}",
        ]
        for finding in section["findings"]
        for point in finding["operating_points"]
    ]
    heads = ["finding", "operating point", "threshold", "sensitivity", "specificity"]
    lines = [*_table(heads, rows), "", *_chosen(report), *_coinciding(section)]
    tested = report.get("operating_points")
    if tested:
        figures = ("precision", "sensitivity", "specificity")
        on_test = [
            [name.replace("_", " "), *(_figure(point[figure]) for figure in figures)]
            for name, point in tested.items()
        ]
        lines += [
            "",
            f"The same thresholds for {recipe.positive} on the official test split, where none was "
            "chosen:",
            "",
            *_table(["operating point", *figures], on_test),
        ]
    return lines


def _where_chosen(report: Mapping[str, Any]) -> str:
    if report.get("domains"):
        return "on domains from which nothing was learned (below)"
    return "on validation"


def _chosen(report: Mapping[str, Any]) -> list[str]:
    """On which pictures the operating points were chosen, and what they make of each domain."""
    domains = report.get("domains")
    if not domains:
        return ["On validation pictures and a mild variation of each."]
    rows = [
        [name, str(share["n"]), str(share["n_positive"]), _share(share)]
        for name, share in domains.items()
    ]
    return [
        "On pictures of domains from which nothing was learned, on validation pictures of labels "
        "that no domain has, and on a mild variation of each: another network, a single training, "
        "learned nothing of a domain, was calibrated on validation pictures as this one was, and "
        "scored it. At the threshold in use:",
        "",
        *_table(["domain", "n", "with the finding", "called right"], rows),
    ]


def _coinciding(section: Mapping[str, Any]) -> list[str]:
    """Which findings have one threshold for all points, and why."""
    labels = [
        finding["label"]
        for finding in section["findings"]
        if len({point["threshold"] for point in finding["operating_points"]}) == 1
    ]
    if not labels:
        return []
    return [
        "",
        f"The points of {' and '.join(labels)} are one: a single threshold calls all of those "
        "pictures right, so that they cannot tell the points apart.",
    ]


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _groups(report: Mapping[str, Any]) -> list[str]:
    rows = [
        [column, name, str(share["n"]), str(share["n_positive"]), _share(share)]
        for column, groups in report["subgroups"].items()
        for name, share in groups.items()
    ]
    if not rows:
        return ["The data name no groups that could be measured apart."]
    return _table(["column", "group", "n", "with the finding", "called right"], rows)


def _gate(recipe: Recipe, section: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            name,
            str(figure["n"]),
            "yes" if figure["outside"] else "no",
            f"{figure['refused']:.1%}",
            f"{figure['named']:.1%}" if "named" in figure else "",
        ]
        for name, figure in report["scope_gate"].items()
    ]
    lateral = " Lateral films were not at hand: nothing is known of them."
    unknown = lateral if recipe.kind == "cxr_image" else ""
    return [
        "The gate asks the network's own embedding how far a picture is from the training "
        "pictures, and whether it looks like an altered one; the limit "
        f"({section['scope_gate']['limit']:.3f}) was set on validation pictures and mild "
        "variations of them. All pictures below were made of those of the first row by formula, or "
        "are named. Of the kinds with a figure in the last column, which says how many the gate "
        "calls by the right word, it learned from training pictures; of the others it never did."
        f"{unknown}",
        "",
        *_table(["pictures", "n", "ought to be refused", "refused", "called so"], rows),
    ]


def _attention(recipe: Recipe, report: Mapping[str, Any]) -> list[str]:
    sanity = (
        "Replacing the weights by random ones changes the maps: mean rank correlation "
        f"{report['map_correlation_randomised']:.2f}."
    )
    lungs = report["inside_lungs"]
    if lungs["inside"] is None:
        return ["No true positive had a believable lung field to be measured against.", sanity]
    return [
        f"Of the heat map of a true positive, {lungs['inside']:.0%} lies inside the lungs (mean of "
        f"{lungs['n']} pictures; an even map would have {lungs['by_chance']:.0%}; "
        f"{lungs['left_out']} pictures left out). {_how_found(recipe)}",
        sanity,
        *_shortcuts(report),
    ]


def _how_found(recipe: Recipe) -> str:
    if recipe.guided and recipe.kind == "cxr_image":
        return "The lungs, with a rim of chest wall, are those that a U-Net finds on the film."
    return (
        "The lungs are estimated by a rough rule without a network, so take this as a comparison "
        "between models, not as a measurement."
    )


def _shortcuts(report: Mapping[str, Any]) -> list[str]:
    measured = report.get("shortcuts")
    if not measured or not measured["auc"]:
        return []
    rows = [[words, f"{measured['auc'][name]:.3f}"] for name, words in PARTS_SHOWN.items()]
    return [
        "",
        f"What it makes of parts of {measured['n']} of the pictures (on {measured['left_out']} "
        "others no lungs were found); labels are those of the lungs:",
        "",
        *_table(["shown", "AUC"], rows),
    ]


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
    return [*lines, "", f"Train again: {before}`{_command(made)}` (seed {recipe.seed})."]


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
        words.append(f"--data {made['own_data']}")
    if made.get("name", made["recipe"]) != made["recipe"]:
        words.append(f"--name {made['name']}")
    words += [f"--set {key}={value}" for key, value in made.get("set", {}).items()]
    return " ".join([*words, "--fallback"] if made.get("fallback") else words)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
