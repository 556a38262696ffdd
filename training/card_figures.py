"""What a model card says in figures: evidence, thresholds, groups, scope gate, heat maps."""

from __future__ import annotations

import shlex
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


def evidence(recipe: Recipe, report: Mapping[str, Any]) -> list[str]:
    """The figures of each split."""
    rows = []
    for split, figures in report["splits"].items():
        cells = [_cell(figures, metric) for metric in _METRICS]
        refused = f"{figures['refused_fraction']:.1%}"
        rows.append([_split_name(report, split), str(figures["n"]), *cells, refused])
    return [
        *_table(["images", "n", *_METRICS, "refused"], rows),
        "",
        f"95 % intervals. Every image counts, refused by the scope gate or not. Threshold "
        f"{report['threshold']}, chosen {_where_chosen(report)}. Produced by "
        f"`python -m training export`{_again(recipe, report)}.",
        *_by_label(recipe, report),
    ]


def _again(recipe: Recipe, report: Mapping[str, Any]) -> str:
    """What measures the test split again; a person's own data lie wherever she keeps them."""
    own = (report.get("made_from") or {}).get("own_data")
    if own and "test" not in report["splits"]:
        return ""
    data = ["DATA", *data_options(report["made_from"])] if own else [recipe.data_set]
    command = " ".join(["python -m training evaluate", report["model"], *data])
    return f"; again by `{command}`{f', DATA being where {own} lies' if own else ''}"


def data_options(made: Mapping[str, Any]) -> list[str]:
    """Words of a command without which a person's own data are others."""
    options = {"--group-column": made.get("group_column"), "--label-map": made.get("label_map")}
    given = [(option, shlex.quote(value)) for option, value in options.items() if value]
    return [word for pair in given for word in pair]


def _split_name(report: Mapping[str, Any], split: str) -> str:
    return _plainly(report, _SPLITS[split])


def _plainly(report: Mapping[str, Any], words: str) -> str:
    """Nothing about a person's own data is official."""
    own = (report.get("made_from") or {}).get("own_data")
    return words.replace("official ", "") if own else words


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
        f"threshold. Each label on the {_split_name(report, split)}, the most probable one called:",
        "",
        *_table(["label", "n", *called, *_OF_A_LABEL], rows),
    ]


def _cell(figures: Mapping[str, Any], metric: str) -> str:
    value, interval = figures.get(metric), figures["ci95"].get(metric)
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def thresholds(recipe: Recipe, section: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    """The operating points, where they were chosen, and what they do on the test split."""
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
    tested, split = report.get("operating_points"), _split_name(report, "test")
    if tested:
        figures = ("precision", "sensitivity", "specificity")
        on_test = [
            [name.replace("_", " "), *(_figure(point[figure]) for figure in figures)]
            for name, point in tested.items()
        ]
        lines += [
            "",
            f"The same thresholds for {recipe.positive} on the {split}, where none was chosen:",
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
        [name, str(share["n"]), str(share["n_positive"]), share_shown(share)]
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


def groups(report: Mapping[str, Any]) -> list[str]:
    """The share called right of each group."""
    rows = [
        [column, name, str(share["n"]), str(share["n_positive"]), share_shown(share)]
        for column, groups in report["subgroups"].items()
        for name, share in groups.items()
    ]
    if not rows:
        return ["The data name no groups that could be measured apart."]
    return _table(["column", "group", "n", "with the finding", "called right"], rows)


def gate(recipe: Recipe, section: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    """What the scope gate refuses."""
    rows = [
        [
            _plainly(report, name),
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


def attention(recipe: Recipe, report: Mapping[str, Any]) -> list[str]:
    """Where the heat maps lie."""
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


def share_shown(figure: Mapping[str, Any]) -> str:
    """A share and its interval."""
    return "{:.2f} ({:.2f} to {:.2f})".format(figure["accuracy"], *figure["ci95"])


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
