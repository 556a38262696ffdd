"""95 % bootstrap intervals, computed from how often each picture is drawn.

A resample is a row of weights: how often each picture is in it. Every figure is then a few sums
over weights, so that thousands of resamples are a few matrix products. Strata are kept: each class
has in every resample as many pictures (or groups of its kind) as in the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from training.judged import Array, Flags, Indices

Statistic = Callable[[Array], Array]
"""Weights (R, N) to one figure for each resample, (R,); NaN where it is undefined."""

RESAMPLES = 2000
SEED = 20261121
"""Of the resamples of every command: the same scores have the same interval in all of them."""
LEVEL = 0.95
PERCENTILES = (100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2)
_WEIGHTS_AT_ONCE = 4_000_000
"""Numbers of float64 held at a time for one array of weights: 32 MB."""


def bootstrap(
    statistics: Mapping[str, Statistic],
    targets: Indices,
    *,
    groups: Sequence[str] | None = None,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, tuple[float, float] | None]:
    """Percentile interval of each figure; None where it is defined in no resample.

    Parameters
    ----------
    statistics
        Name -> figure as a function of weights.
    targets
        (N,): class of each picture, N >= 1.
    groups
        Of each picture; groups are then drawn, not pictures. A picture of group "" stands alone.
    """
    parts: dict[str, list[Array]] = {name: [] for name in statistics}
    for weights in draws(targets, groups=groups, seed=seed, resamples=resamples):
        for name, statistic in statistics.items():
            parts[name].append(statistic(weights))
    return {name: _interval(np.concatenate(values)) for name, values in parts.items()}


def draws(
    targets: Indices, *, groups: Sequence[str] | None, seed: int, resamples: int
) -> Iterator[Array]:
    """Weights (R, N) of stratified resamples, `resamples` rows in all, some rows at a time."""
    generator = np.random.default_rng(seed)
    unit, strata = _units(targets, groups)
    at_once = max(1, _WEIGHTS_AT_ONCE // len(targets))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        counts = np.empty((rows, len(strata)))
        for stratum in np.unique(strata):
            members = np.flatnonzero(strata == stratum)
            picks = generator.integers(len(members), size=(rows, len(members)))
            picks += len(members) * np.arange(rows)[:, np.newaxis]
            drawn = np.bincount(picks.ravel(), minlength=rows * len(members))
            counts[:, members] = drawn.reshape(rows, len(members))
        yield counts[:, unit]


def exact(successes: int, trials: int) -> tuple[float, float]:
    """The interval of Clopper and Pearson (1934) for `successes` of `trials` >= 1."""
    interval = binomtest(successes, trials).proportion_ci(LEVEL)
    return float(interval.low), float(interval.high)


def weighted_mean(values: NDArray[Any], among: Flags | None = None) -> Statistic:
    """Mean of values (N,) among some of the pictures; NaN where none of them is drawn."""
    counted = np.ones(len(values)) if among is None else among.astype(np.float64)
    numerator = counted * values

    def mean(weights: Array) -> Array:
        return _ratio(weights @ numerator, weights @ counted)

    return mean


def weighted_f1(truth: Flags, called: Flags) -> Statistic:
    """Harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN)."""
    hit, marked = (truth & called) * 2.0, truth.astype(np.float64) + called

    def f1(weights: Array) -> Array:
        return _ratio(weights @ hit, weights @ marked)

    return f1


def weighted_auc(truth: Flags, scores: Array) -> Statistic:
    """Area under the ROC curve by ranks: the share of pairs in the right order, ties half."""
    by_score = ByScore(truth, scores)

    def auc(weights: Array) -> Array:
        positive, negative = by_score(weights)
        below = np.cumsum(negative, axis=1) - 0.5 * negative
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        return _ratio(np.einsum("ij,ij->i", positive, below), pairs)

    return auc


def weighted_average_precision(truth: Flags, scores: Array) -> Statistic:
    """Mean precision over the thresholds, weighted by the gain in recall."""
    by_score = ByScore(truth, -scores)

    def average_precision(weights: Array) -> Array:
        positive, negative = by_score(weights)
        found = np.cumsum(positive, axis=1)
        precision = found / np.maximum(found + np.cumsum(negative, axis=1), 1)
        return _ratio(np.einsum("ij,ij->i", positive, precision), positive.sum(axis=1))

    return average_precision


def weighted_ece(right: Flags, confidence: Array, bins: int) -> Statistic:
    """Expected calibration error: mean over equally wide bins of |share right - confidence|."""
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    excess = np.zeros((len(place), bins))
    excess[np.arange(len(place)), place] = right - confidence

    def ece(weights: Array) -> Array:
        return _ratio(np.abs(weights @ excess).sum(axis=1), weights.sum(axis=1))

    return ece


def mean_of(statistics: Sequence[Statistic]) -> Statistic:
    """Unweighted mean of several figures; NaN where any of them is undefined."""

    def mean(weights: Array) -> Array:
        return np.asarray(np.mean([statistic(weights) for statistic in statistics], axis=0))

    return mean


class ByScore:
    """Sums weights of positive and negative pictures over equal scores, ascending."""

    def __init__(self, truth: Flags, scores: Array) -> None:
        order = np.argsort(scores, kind="stable")
        ordered = scores[order]
        self._order = order
        self._starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        self._truth = truth[order]

    def __call__(self, weights: Array) -> tuple[Array, Array]:
        """Positive and negative weights (R, different scores) of weights (R, N)."""
        ordered = weights[:, self._order]
        positive = np.add.reduceat(ordered * self._truth, self._starts, axis=1)
        return positive, np.add.reduceat(ordered, self._starts, axis=1) - positive


def _units(targets: Indices, groups: Sequence[str] | None) -> tuple[Indices, Indices]:
    """The unit that each picture is drawn with, and the stratum of each unit."""
    if groups is None:
        return np.arange(len(targets)), targets
    names = [group or f"\0{place}" for place, group in enumerate(groups)]
    unit = np.unique(names, return_inverse=True)[1]
    # Groups that hold the same classes are alike: which classes is one stratum's name.
    present = np.zeros((int(unit.max()) + 1, int(targets.max()) + 1), dtype=np.bool_)
    present[unit, targets] = True
    return unit, np.unique(present, axis=0, return_inverse=True)[1].ravel()


def _ratio(numerator: Array, denominator: Array) -> Array:
    undefined = np.full(numerator.shape, np.nan)
    return np.asarray(np.divide(numerator, denominator, out=undefined, where=denominator > 0))


def _interval(values: Array) -> tuple[float, float] | None:
    defined = values[np.isfinite(values)]
    if not len(defined):
        return None
    low, high = np.percentile(defined, PERCENTILES)
    return float(low), float(high)
