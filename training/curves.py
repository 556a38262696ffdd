"""ROC, precision-recall and calibration curves with bootstrap bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.intervals import PERCENTILES, ByScore, draws
from training.judged import Array, Flags, Indices

GRID = np.linspace(0.0, 1.0, 101)
"""Where bands are computed: false positive rates, or recalls."""
_RESAMPLES = 500


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A curve through points (P,), with a band (G,) over `GRID`."""

    x: Array
    y: Array
    low: Array
    high: Array


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Bins of predicted probability that hold pictures.

    Attributes
    ----------
    predicted, observed
        (B,): mean probability, and share of the pictures with the finding.
    counts
        (B,).
    """

    predicted: Array
    observed: Array
    counts: Indices


def roc(truth: Flags, scores: Array, *, seed: int, groups: Sequence[str] | None = None) -> Curve:
    """True positive rate over false positive rate; both classes are needed.

    Parameters
    ----------
    truth, scores
        (N,): whether the finding is there, and its probability.
    groups
        See `training.metrics.measure`.
    """
    found, wrong = _counts(truth, scores, np.ones((1, len(truth))))
    x, y = (np.r_[0.0, part[0] / part[0, -1]] for part in (wrong, found))
    drawn = zip(*_counts(truth, scores, _weights(truth, seed, groups)), strict=True)
    return Curve(x, y, *_band([_at_rates(found, wrong) for found, wrong in drawn]))


def precision_recall(
    truth: Flags, scores: Array, *, seed: int, groups: Sequence[str] | None = None
) -> Curve:
    """Precision over recall; both classes are needed. See `roc` for the parameters."""
    found, wrong = (part[0] for part in _counts(truth, scores, np.ones((1, len(truth)))))
    drawn = zip(*_counts(truth, scores, _weights(truth, seed, groups)), strict=True)
    band = _band([_at_recalls(found, wrong) for found, wrong in drawn])
    return Curve(found / found[-1], found / (found + wrong), *band)


def reliability(truth: Flags, probabilities: Array, bins: int) -> Reliability:
    """Predicted beside observed frequency in equally wide bins of probability."""
    place = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    held = counts > 0
    predicted = np.bincount(place, probabilities, minlength=bins)[held] / counts[held]
    observed = np.bincount(place, truth, minlength=bins)[held] / counts[held]
    return Reliability(predicted, observed, counts[held])


def _weights(truth: Flags, seed: int, groups: Sequence[str] | None) -> Array:
    """Weights (R, N) of resamples in which both classes occur."""
    targets = truth.astype(np.int64)
    weights = np.concatenate(list(draws(targets, groups=groups, seed=seed, resamples=_RESAMPLES)))
    both = (weights[:, truth].sum(axis=1) > 0) & (weights[:, ~truth].sum(axis=1) > 0)
    return np.asarray(weights[both])


def _counts(truth: Flags, scores: Array, weights: Array) -> tuple[Array, Array]:
    """Right and wrong calls (R, different scores) at each threshold, from the highest down."""
    positive, negative = ByScore(truth, -scores)(weights)
    return np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)


def _at_rates(found: Array, wrong: Array) -> Array:
    rates = np.r_[0.0, wrong / wrong[-1]]
    return np.asarray(np.interp(GRID, rates, np.r_[0.0, found / found[-1]]))


def _at_recalls(found: Array, wrong: Array) -> Array:
    """Precision where a recall is first reached: interpolating would be too optimistic."""
    first = np.searchsorted(found / found[-1], np.maximum(GRID, 1 / found[-1]) - 1e-12)
    return np.asarray(found[first] / (found[first] + wrong[first]))


def _band(curves: Sequence[Array]) -> tuple[Array, Array]:
    low, high = np.percentile(np.stack(curves), PERCENTILES, axis=0)
    return low, high
