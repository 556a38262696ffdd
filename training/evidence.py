"""Measure an exported model folder as the node runs it, split by split and group by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicom_node.score.bundle import read_bundle
from dicom_node.score.engine import Classifier, Scores, open_classifier
from training.confounding import share_with_interval
from training.data import Picture, Splits, data_dir, strict_test
from training.explain import Explained, explained_cases, looked_at
from training.intervals import SEED
from training.judged import judge
from training.metrics import FIGURES, measure
from training.recipes.base import Recipe

NOTES = {
    "validation": "chose the epoch, the calibration, the gate's limit and, unless the card names "
    "domains, the thresholds",
    "test": "official test split; no weight, threshold or limit was fitted to it "
    "(docs/README.md says what of it had been seen)",
    "test_strict": "test images of undoubted label, without copies and without groups learned from",
}

_OF_OWN_TEST = "test split; no weight, threshold or limit was fitted to it"


def measured(folder: Path, recipe: Recipe, splits: Splits) -> dict[str, Any]:
    """Score the validation and test pictures with a model folder.

    Returns
    -------
    dict
        `model`, `version`, `data_set`, `engine`, `threshold`, `splits` (name -> the dictionary of
        `training.metrics.measure` with `refused` and `refused_fraction`; only those with pictures),
        `subgroups` (column -> value -> share called right) and what `training.explain.looked_at`
        gives, all of the test pictures or, without any, of the validation pictures; where there are
        test pictures also `operating_points`: name -> precision, sensitivity and specificity of the
        main finding at each threshold, None where undefined.
    """
    classifier = open_classifier(read_bundle(folder), device="cpu")
    report: dict[str, Any] = {
        "model": classifier.bundle.name,
        "version": classifier.bundle.version,
        "data_set": recipe.data_set,
        "engine": classifier.engine,
        "threshold": classifier.bundle.findings[0].threshold,
        "splits": {},
    }
    for name, pictures in {"validation": splits.validation, "test": splits.test}.items():
        if not pictures:
            continue
        scores = classifier.predict([classifier.pipeline.tensor(p.plane) for p in pictures])
        report["splits"][name] = _figures(classifier, recipe, scores, pictures)
        explained = explained_cases(classifier, scores, pictures)
        judged = judge(
            np.array([picture.target for picture in pictures], dtype=np.int64),
            np.asarray(scores.outputs, dtype=np.float64),
            labels=recipe.labels,
            positive=recipe.positive,
            threshold=report["threshold"],
        )
        report["subgroups"] = subgroups(recipe.subgroups, pictures, judged.right, judged.truth)
        if pictures is (splits.test or splits.validation):
            report |= looked_at(classifier, explained, pictures, segment=recipe.guided)
        if name == "test":
            report["operating_points"] = _at_each_point(classifier, explained)
        strict = strict_places(splits) if name == "test" else []
        if strict:
            some = [pictures[place] for place in strict]
            report["splits"]["test_strict"] = _figures(
                classifier, recipe, scores.take(strict), some
            )
    return report


def entries(recipe: Recipe, report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The report as the `evidence` of `metadata.json`."""
    own = (report.get("made_from") or {}).get("own_data")
    notes = NOTES | {"test": _OF_OWN_TEST} if own else NOTES
    return [
        {
            "data_set": recipe.data_title,
            "split": split,
            "n": figures["n"],
            "n_positive": figures["n_positive"],
            "metric": metric,
            "value": figures[metric],
            "confidence_interval": figures["ci95"][metric],
            "note": notes[split],
        }
        for split, figures in report["splits"].items()
        for metric in FIGURES
        if figures[metric] is not None
    ]


def strict_places(splits: Splits) -> list[int]:
    """Places of the test pictures of undoubted label that are no relatives of what was learned."""
    learned = [*splits.train, *splits.validation]
    kept = {id(p) for p in strict_test(splits.test, learned, data_dir() / "duplicates.csv")}
    return [place for place, picture in enumerate(splits.test) if id(picture) in kept]


def subgroups(
    columns: Sequence[str],
    pictures: Sequence[Picture],
    right: NDArray[np.bool_],
    truth: NDArray[np.bool_],
) -> dict[str, dict[str, Any]]:
    """Share called right by value of each subgroup column that has two or more values.

    Parameters
    ----------
    right, truth
        (N,): whether the label that is called is the true one, and whether the main finding is
        there.
    """
    result: dict[str, dict[str, Any]] = {}
    for column in columns:
        values = np.array([picture.item.columns.get(column, "") for picture in pictures])
        names = sorted(set(values) - {""})
        if len(names) < 2:
            continue
        result[column] = {}
        for name in names:
            chosen = values == name
            share = share_with_interval(right[chosen])
            share["n_positive"] = int(truth[chosen].sum())
            result[column][name] = share
    return result


def _at_each_point(classifier: Classifier, explained: Explained) -> dict[str, dict[str, Any]]:
    truth = explained.truth
    result: dict[str, dict[str, Any]] = {}
    for point in classifier.bundle.findings[0].operating_points:
        called = explained.probabilities >= point.threshold
        result[point.name] = {
            "precision": _share(truth[called]),
            "sensitivity": _share(called[truth]),
            "specificity": _share(~called[~truth]),
        }
    return result


def _share(right: NDArray[np.bool_]) -> float | None:
    return round(float(right.mean()), 4) if len(right) else None


def _figures(
    classifier: Classifier, recipe: Recipe, scores: Scores, pictures: Sequence[Picture]
) -> dict[str, Any]:
    groups = [picture.item.group for picture in pictures]
    figures = measure(
        np.array([picture.target for picture in pictures]),
        scores.outputs,
        labels=recipe.labels,
        positive=recipe.positive,
        threshold=classifier.bundle.findings[0].threshold,
        seed=SEED,
        groups=groups if any(groups) else None,
    )
    refused = int((scores.distance > 1).sum())
    fraction = round(refused / len(pictures), 6)
    return {**figures, "refused": refused, "refused_fraction": fraction}
