"""Several models on the same pictures, and whether their differences are more than luck."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest, norm, rankdata

from dicom_node.errors import BadInput
from training.data import Source
from training.intervals import SEED
from training.judged import Array, Flags, Judged
from training.metrics import measure
from training.predict import Predicted, predict

_Z = float(norm.ppf(0.975))
_SHOWN = ("auc", "accuracy", "sensitivity", "specificity")
_WIDTH = 120
"""Of the printed table, in characters."""


def compare(
    model_dirs: Sequence[Path],
    source: Source,
    *,
    split: str | None,
    label_map: Mapping[str, str] | None = None,
    seed: int = SEED,
    progress: bool = False,
) -> dict[str, Any]:
    """Measure models on the pictures that all of them have a label for, in pairs too.

    Each model's main finding stands against everything else, called at the model's own threshold.

    Returns
    -------
    dict
        `data`, `split`, `n`, `n_positive`, `unknown_labels` (label -> pictures left out, one or
        more of the models not knowing it), `problems` (what is wrong with pictures, rows or files
        that were left out), `models` (each `name`, `version` and the figures of
        `training.metrics.measure`) and `pairs` (each `models`, `auc_difference` with `ci95` and `p`
        by DeLong, null where neither area has any spread, and `mcnemar`: on how many pictures only
        the first or only the second model is right, and the exact `p`). No p value is corrected
        for the number of pairs.

    Raises
    ------
    BadInput
        Fewer than two models, a label map to what one of them has no label for, no picture that
        all of them know, pictures of one class only, or main findings that are not the same.
    """
    if len(model_dirs) < 2:
        raise BadInput("to compare, name two or more model folders")
    each = [
        predict(folder, source, split=split, label_map=label_map, progress=progress)
        for folder in model_dirs
    ]
    same = _same_pictures(each)
    cases = [one.judged() for one in same]
    truth = _common_truth(same, cases)
    names = _names(same, model_dirs)
    areas, covariance = delong(truth, np.stack([case.scores for case in cases]))
    return {
        "data": source.name,
        "split": same[0].split,
        "n": len(truth),
        "n_positive": int(truth.sum()),
        "unknown_labels": _unknown(each),
        "problems": _problems(each, source),
        "models": [
            {"name": name, "version": one.bundle.version, **_figures(one, case, seed)}
            for name, one, case in zip(names, same, cases, strict=True)
        ],
        "pairs": [
            {
                "models": [names[first], names[second]],
                **_auc_difference(areas, covariance, first, second),
                "mcnemar": mcnemar(_right(cases[first]), _right(cases[second])),
            }
            for first, second in combinations(range(len(names)), 2)
        ],
    }


def delong(truth: Flags, scores: Array) -> tuple[Array, Array]:
    """Areas under the ROC curves of M models on the same pictures, and their covariance.

    DeLong, DeLong and Clarke-Pearson (1988), by midranks as Sun and Xu (2014).

    Parameters
    ----------
    truth
        (N,), two or more pictures of each class.
    scores
        (M, N).

    Returns
    -------
    areas, covariance
        (M,) and (M, M).
    """
    positive, negative = scores[:, truth], scores[:, ~truth]
    m, n = positive.shape[1], negative.shape[1]
    together = rankdata(np.concatenate([positive, negative], axis=1), axis=1)
    above = (together[:, :m] - rankdata(positive, axis=1)) / n
    below = 1 - (together[:, m:] - rankdata(negative, axis=1)) / m
    covariance = np.atleast_2d(np.cov(above)) / m + np.atleast_2d(np.cov(below)) / n
    return np.asarray(above.mean(axis=1)), covariance


def mcnemar(first: Flags, second: Flags) -> dict[str, Any]:
    """Exact test of whether two models are right equally often, from right answers (N,) each."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    differing = only_first + only_second
    p = float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0
    return {"only_first_right": only_first, "only_second_right": only_second, "p": round(p, 6)}


def render(result: Mapping[str, Any]) -> str:
    """The comparison as tables of plain text."""
    models = Table("model", "version", *_SHOWN, box=SIMPLE)
    for model in result["models"]:
        models.add_row(model["name"], model["version"], *(_cell(model, name) for name in _SHOWN))
    pairs = Table("pair", "AUC difference", "p (DeLong)", "right alone", "p (McNemar)", box=SIMPLE)
    for pair in result["pairs"]:
        low, high = pair["ci95"]
        tested = pair["mcnemar"]
        pairs.add_row(
            " - ".join(pair["models"]),
            f"{pair['auc_difference']:+.3f} ({low:+.3f} to {high:+.3f})",
            "-" if pair["p"] is None else f"{pair['p']:.4f}",
            f"{tested['only_first_right']} : {tested['only_second_right']}",
            f"{tested['p']:.4f}",
        )
    console = Console(width=_WIDTH, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(
            f"{result['data']}, split {result['split']}: n {result['n']}, of them "
            f"{result['n_positive']} with the finding"
        )
        for label, count in result["unknown_labels"].items():
            console.print(
                f"left out, not known to every model: label {label}, n {count}", markup=False
            )
        console.print(models, pairs)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).rstrip() + "\n"


def _unknown(each: Sequence[Predicted]) -> dict[str, int]:
    """Label -> how many pictures of it one or more models do not know."""
    labels = sorted({label for one in each for label in one.unknown})
    return {label: max(one.unknown.get(label, 0) for one in each) for label in labels}


def _problems(each: Sequence[Predicted], source: Source) -> list[str]:
    """What is wrong with pictures for any model, and with the source, each said once."""
    unreadable = [sentence for one in each for sentence in one.unreadable]
    return list(dict.fromkeys([*unreadable, *source.problems]))


def _same_pictures(each: Sequence[Predicted]) -> list[Predicted]:
    shared = set.intersection(*({item.path for item in one.items} for one in each))
    if not shared:
        raise BadInput("there is no picture whose label all models know; use --label-map")
    return [
        one.take([place for place, item in enumerate(one.items) if item.path in shared])
        for one in each
    ]


def _common_truth(each: Sequence[Predicted], cases: Sequence[Judged]) -> Flags:
    truth = cases[0].truth
    for one, case in zip(each, cases, strict=True):
        if not (case.truth == truth).all():
            raise BadInput(
                f"{each[0].bundle.name} looks for {each[0].positive} and {one.bundle.name} for "
                f"{one.positive}: on these pictures that is not the same"
            )
    if min(truth.sum(), (~truth).sum()) < 2:
        raise BadInput(
            f"{each[0].data}: to compare, two or more pictures with {each[0].positive} and two or "
            "more without are needed"
        )
    return truth


def _names(each: Sequence[Predicted], folders: Sequence[Path]) -> list[str]:
    """Name of each model; where several have one name, with as much of the folder as differs."""
    names = [one.bundle.name for one in each]
    if len(set(names)) == len(names):
        return names
    parts = [folder.absolute().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        shown = ["/".join(part[-length:]) for part in parts]
        if len(set(shown)) == len(set(parts)):
            return shown
    return names


def _figures(one: Predicted, case: Judged, seed: int) -> dict[str, Any]:
    """The figures of the main finding against everything else."""
    return measure(
        case.truth.astype(np.int64),
        case.scores[:, np.newaxis],
        labels=(f"not {one.positive}", one.positive),
        positive=one.positive,
        threshold=one.threshold,
        seed=seed,
        groups=one.groups,
    )


def _right(case: Judged) -> Flags:
    return np.asarray(case.found == case.truth)


def _auc_difference(areas: Array, covariance: Array, first: int, second: int) -> dict[str, Any]:
    difference = float(areas[first] - areas[second])
    variance = covariance[first, first] + covariance[second, second]
    deviation = math.sqrt(max(0.0, float(variance - 2 * covariance[first, second])))
    p: float | None = 1.0 if difference == 0 else None
    if deviation > 0:
        p = round(2 * float(norm.sf(abs(difference) / deviation)), 6)
    # Areas are from 0 to 1: no difference is beyond 1, whatever the normal distribution says.
    low, high = max(-1.0, difference - _Z * deviation), min(1.0, difference + _Z * deviation)
    return {
        "auc_difference": round(difference, 6),
        "ci95": [round(low, 6), round(high, 6)],
        "p": p,
    }


def _cell(model: Mapping[str, Any], name: str) -> str:
    value, interval = model[name], model["ci95"][name]
    if value is None or interval is None:
        return "-"
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"
