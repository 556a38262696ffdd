"""The figures of a classifier on labelled pictures, each with its 95 % interval.

Two classes are judged at the threshold of the main finding. With more classes, `accuracy` and the
confusion matrix go by the most probable class and `auc` is the mean over the classes that occur,
each against the rest, while `sensitivity`, `specificity`, `precision`, `recall`, `f1` and
`average_precision` are those of the main finding at its threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    multilabel_confusion_matrix,
    precision_score,
    recall_score,
    roc_auc_score,
)

from training.intervals import (
    RESAMPLES,
    Statistic,
    bootstrap,
    exact,
    mean_of,
    weighted_auc,
    weighted_average_precision,
    weighted_ece,
    weighted_f1,
    weighted_mean,
)
from training.judged import Array, Flags, Indices, Judged, judge

BINS = 10
"""Of the expected calibration error."""
DIGITS = 6
_SHARES = frozenset({"accuracy", "sensitivity", "specificity", "precision", "recall"})
_PERFECT = frozenset(
    {("f1", 0.0), ("f1", 1.0), ("auc", 0.0), ("auc", 1.0), ("average_precision", 1.0)}
)
"""Other figures that no resample of such pictures can change; see `_trials`."""
_FEWEST = 5
"""Pictures or groups of which resamples say something."""


def measure(
    targets: Indices,
    outputs: Array,
    *,
    labels: Sequence[str],
    positive: str,
    threshold: float,
    seed: int,
    groups: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Compute every figure, ready for JSON.

    Parameters
    ----------
    targets
        (N,): places in `labels`.
    outputs
        (N, K) calibrated probabilities: K is 1 (of `positive`) or one for each of `labels`.
    positive
        Label of the main finding.
    threshold
        From which probability on it is called.
    groups
        Patient or document of each picture, where that is known; "" where it is not. Resamples
        then draw groups.

    Returns
    -------
    dict
        `n`, `n_positive`, `FIGURES`, `threshold`, `confusion_matrix` (rows: truth, columns: call,
        both in the order of `labels`), `labels`, `positive`, `auc_of` (labels whose areas `auc` is
        the mean of), `ci95` (figure -> [low, high], or null), `ci95_exact` (figures of exactly 0 or
        1, shares of fewer than 5 pictures or groups, and shares that are the same in every
        resample, which says nothing then: their interval is Clopper and Pearson's, for an area over
        as many independent pairs as there are; other such figures have none), `resampled`
        (`pictures` or `groups`), `undefined`
        (figure -> why it is null) and `per_class` (label -> its figures against the rest).

    Raises
    ------
    BadInput
        A probability that is no number from 0 to 1.
    """
    case = judge(
        np.asarray(targets, dtype=np.int64),
        np.asarray(outputs, dtype=np.float64),
        labels=labels,
        positive=positive,
        threshold=threshold,
    )
    undefined = _undefined(case)
    values = {name: point(case) for name, point in _POINT.items() if name not in undefined}
    intervals, exactly = _intervals(case, values, groups, seed, resamples)
    return {
        "n": len(case.targets),
        "n_positive": int(case.truth.sum()),
        **{name: _rounded(values[name]) if name in values else None for name in FIGURES},
        "threshold": threshold,
        "confusion_matrix": case.matrix(),
        "labels": list(case.labels),
        "positive": positive,
        "auc_of": [] if "auc" in undefined else [case.labels[place] for place in case.ranked],
        "ci95": intervals,
        "ci95_exact": exactly,
        "resampled": "pictures" if groups is None else "groups",
        "undefined": undefined,
        "per_class": _per_class(case),
    }


def _per_class(case: Judged) -> dict[str, dict[str, Any]]:
    """Each label against the rest, where it is called (see `judge`); null: undefined."""
    if not len(case.targets):
        return {}
    places = list(range(len(case.labels)))
    tables = multilabel_confusion_matrix(case.targets, case.called, labels=places)
    result = {}
    for place, label in enumerate(case.labels):
        (tn, fp), (fn, tp) = tables[place].tolist()
        mixed = tp + fn > 0 and tn + fp > 0
        result[label] = {
            "n": tp + fn,
            "sensitivity": _share(tp, tp + fn),
            "specificity": _share(tn, tn + fp),
            "precision": _share(tp, tp + fp),
            "f1": _share(2 * tp, 2 * tp + fp + fn),
            "auc": _rounded(_auc(case, place)) if mixed else None,
        }
    return result


def _undefined(case: Judged) -> dict[str, str]:
    if not len(case.targets):
        return dict.fromkeys(FIGURES, "there are no pictures")
    word = case.labels[case.main]
    reasons: dict[str, str] = {}
    if not case.truth.any():
        none = f"no picture has the label {word}"
        reasons |= dict.fromkeys(("sensitivity", "recall", "auc", "average_precision"), none)
    if case.truth.all():
        every = f"every picture has the label {word}"
        reasons |= dict.fromkeys(("specificity", "auc", "average_precision"), every)
    if not case.found.any():
        reasons["precision"] = f"no picture is called {word}"
        if not case.truth.any():
            reasons["f1"] = f"no picture has the label {word} or is called so"
    if len(case.labels) > 2:
        reasons.pop("auc", None)
        if not case.ranked:
            reasons["auc"] = f"every picture has the label {case.labels[case.targets[0]]}"
    return reasons


def _intervals(
    case: Judged,
    values: dict[str, float],
    groups: Sequence[str] | None,
    seed: int,
    resamples: int,
) -> tuple[dict[str, list[float] | None], list[str]]:
    """Interval of each figure, null where it is undefined, and which of them are exact."""
    trials = {name: _trials(case, name, groups) for name in values}
    exactly = [
        name
        for name, value in values.items()
        if (name, _rounded(value)) in _PERFECT
        or (name in _SHARES and (value in (0.0, 1.0) or trials[name] < _FEWEST))
    ]
    resampled = [name for name in values if name not in exactly and trials[name] >= _FEWEST]
    statistics = {name: one for name, one in _statistics(case).items() if name in resampled}
    pairs: dict[str, tuple[float, float] | None] = {}
    if statistics:
        pairs = bootstrap(statistics, case.targets, groups=groups, seed=seed, resamples=resamples)
    still = [name for name, pair in pairs.items() if pair is not None and pair[0] == pair[1]]
    exactly += [name for name in still if name in _SHARES]
    pairs |= dict.fromkeys(name for name in still if name not in _SHARES)
    for name in exactly:
        pairs[name] = exact(round(values[name] * trials[name]), trials[name])
    intervals = {}
    for name in FIGURES:
        pair = pairs.get(name)
        intervals[name] = None if pair is None else [_rounded(end) for end in pair]
    return intervals, exactly


def _statistics(case: Judged) -> dict[str, Statistic]:
    truth, found, rows = case.truth, case.found, case.probabilities
    sensitivity = weighted_mean(found, truth)
    return {
        "accuracy": weighted_mean(case.right),
        "sensitivity": sensitivity,
        "specificity": weighted_mean(~found, ~truth),
        "precision": weighted_mean(truth, found),
        "recall": sensitivity,
        "f1": weighted_f1(truth, found),
        "auc": mean_of([weighted_auc(case.targets == i, rows[:, i]) for i in case.ranked]),
        "average_precision": weighted_average_precision(truth, case.scores),
        "brier": weighted_mean(case.squared_error()),
        "ece": weighted_ece(*case.promised(), BINS),
    }


def _trials(case: Judged, name: str, groups: Sequence[str] | None) -> int:
    """How many independent trials a figure went through.

    An area is the chance that a pair is in the right order; pairs without a common picture (or
    group) are independent, and there are as many as the rarer side has.
    """
    if name not in {"auc", "average_precision"}:
        return _independent(_among(case, name), groups)
    places = case.ranked if name == "auc" else (case.main,)
    sides = [case.targets == place for place in places]
    return min(_independent(side, groups) for one in sides for side in (one, ~one))


def _among(case: Judged, name: str) -> Flags:
    """Which pictures a share is a share of, (N,); F1 is 0 or 1 where sensitivity is."""
    if name in {"sensitivity", "recall"} or (name == "f1" and case.truth.any()):
        return case.truth
    if name == "f1":
        return case.found
    if name == "specificity":
        return ~case.truth
    return case.found if name == "precision" else np.ones(len(case.truth), np.bool_)


def _independent(among: Flags, groups: Sequence[str] | None) -> int:
    """How many of the pictures can err by themselves: one of each group."""
    places = np.flatnonzero(among).tolist()
    return len(places) if groups is None else len({groups[i] or i for i in places})


def _auc(case: Judged, place: int) -> float:
    return float(roc_auc_score(case.targets == place, case.probabilities[:, place]))


def _calibration_error(case: Judged) -> float:
    everything_once = np.ones((1, len(case.targets)))
    return float(weighted_ece(*case.promised(), BINS)(everything_once)[0])


_POINT: dict[str, Callable[[Judged], float]] = {
    "accuracy": lambda case: float(accuracy_score(case.targets, case.called)),
    "sensitivity": lambda case: float(recall_score(case.truth, case.found)),
    "specificity": lambda case: float(recall_score(~case.truth, ~case.found)),
    "precision": lambda case: float(precision_score(case.truth, case.found)),
    "recall": lambda case: float(recall_score(case.truth, case.found)),
    "f1": lambda case: float(f1_score(case.truth, case.found)),
    "auc": lambda case: float(np.mean([_auc(case, place) for place in case.ranked])),
    "average_precision": lambda case: float(average_precision_score(case.truth, case.scores)),
    "brier": lambda case: float(case.squared_error().mean()),
    "ece": _calibration_error,
}
FIGURES = tuple(_POINT)
"""Names of the figures, in order."""


def _share(part: int, whole: int) -> float | None:
    return _rounded(part / whole) if whole else None


def _rounded(value: float) -> float:
    return round(float(value), DIGITS)
