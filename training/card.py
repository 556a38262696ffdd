"""The model card: what a person must know before trusting a score."""

from __future__ import annotations

from typing import Any

from training.recipes.base import Recipe

_SPLITS = {
    "validation": "validation (grouped, from the training split)",
    "test": "official test split",
    "test_strict": "official test split without doubtful labels and relatives of training images",
}
_METRICS = ("auc", "accuracy", "sensitivity", "specificity", "brier")


def card(recipe: Recipe, metadata: dict[str, Any], report: dict[str, Any]) -> str:
    """Markdown text of `docs/README.md`; every number comes from `report`."""
    section = metadata["dicom_node"]
    finding = section["findings"][0]
    use = recipe.intended_use
    age = f"{use['age_years'][0]} to {use['age_years'][1]} completed years"
    lines = [
        f"# {recipe.labels.title}",
        "",
        f"`{recipe.name}` {metadata['version']}, {recipe.architecture}. {use['statement']}",
        "",
        "## Intended use",
        f"- Modality: {', '.join(use['modalities'])}; body part: {', '.join(use['body_parts'])}",
        *([f"- View: {', '.join(use['view_positions'])}"] if "view_positions" in use else []),
        f"- Age: {age}" + ("" if use["age_must_be_known"] else "; an unknown age is remarked"),
        "- Anything else is not analysed, or is marked where a route says so.",
        "",
        "## Evidence",
        *_table(report),
        "",
        f"95 % intervals: bootstrap over images within each class. Threshold {finding['threshold']}"
        " (balanced point of the validation split). Produced by"
        f" `python -m training evaluate {recipe.name}`.",
        "",
        "| operating point | threshold | sensitivity (validation) | specificity (validation) |",
        "| --- | --- | --- | --- |",
        *(
            f"| {p['name']} | {p['threshold']} | {p['sensitivity']:.3f} | {p['specificity']:.3f} |"
            for p in finding["operating_points"]
        ),
        "",
        "## Known flaws",
        *(f"- {limit}" for limit in recipe.limits),
        "",
        "## Data and licence",
        f"{recipe.labels.data_title}. Licence: {recipe.labels.license}. Details: "
        "`data_license.txt`. No image of the data set is in this folder; the golden images are "
        "drawn by a formula.",
        "",
        "## Method",
        f"{recipe.architecture} from ImageNet weights, of which the first {recipe.frozen_layers} "
        f"layers are kept; {recipe.epochs} epochs (best validation AUC kept), running average of "
        f"the weights, batch {recipe.batch_size}, AdamW at {recipe.learning_rate} "
        "with one cycle, smoothed and class-balanced cross-entropy. Validation is one of "
        f"{recipe.folds} folds grouped by `{recipe.group_column}`. Copies were taken once; copies "
        "of test images not at all. Probabilities: sigmoid(logit / "
        f"{finding['temperature']:.4f} + {finding['bias']:.4f}), fitted on validation. Heat map: "
        "class activation map, which equals Grad-CAM for this network. bfloat16 changes a "
        f"validation probability by at most {section['bfloat16_deviation']}.",
        "",
        f"Train again: `python -m training all {recipe.name}` (seed {recipe.seed}).",
        "",
    ]
    return "\n".join(lines)


def _table(report: dict[str, Any]) -> list[str]:
    lines = [
        "| images | n (with finding) | " + " | ".join(_METRICS) + " |",
        "| --- " * (len(_METRICS) + 2) + "|",
    ]
    for split, title in _SPLITS.items():
        part = report[split]
        cells = [
            "{:.3f} ({:.3f} to {:.3f})".format(
                part[metric]["value"], *part[metric]["confidence_interval"]
            )
            for metric in _METRICS
        ]
        lines.append(
            f"| {title} | {part['n']} ({part['n_positive']}) | " + " | ".join(cells) + " |"
        )
    return lines
