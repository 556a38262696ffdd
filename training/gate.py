"""Fit a model's scope gate on its training pictures and measure what it refuses.

Nothing foreign is learned from: the gate sees training pictures, clean, mildly varied and altered
in ways that make them something else, and its limit comes from validation pictures, clean and
mildly varied. What it refuses of altered ones and of other pictures is measured afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression

from dicom_node.score.alterations import Alterations
from dicom_node.score.scope import ScopeGate, fit_gate
from dicom_node.score.transforms import FloatArray, Pipeline
from training.others import Others
from training.variations import ALTERATIONS, STRANGERS, mild

Standard = NDArray[np.float64]
"""Standardised features (N, D)."""
Embed = Callable[[FloatArray], FloatArray]
"""A network: prepared images (N, 3, rows, columns) float32 to embeddings (N, D)."""

COMPONENTS = 256
IMAGES_PER_COMPONENT = 4
ACCEPTED = 0.97
"""Share of the validation pictures and their mild variations that the limit lets pass, at least."""
_REFUSED, _DOUBT = 0.05, 0.1
"""Of few validation pictures more must pass, so that with so little doubt no more than this share
of all such pictures is refused (a distribution-free tolerance limit, Wilks 1941). Pictures of one
patient or document tell little more than one of them, so these are counted. Of fewer than 45 all
pictures must pass, which leaves more doubt: 0.13 with 40, 0.19 with 32."""
_VARIATIONS = 2
"""Of each picture. Without them the limit must be so wide that nothing is refused; eight of each
refused no more than two."""
MOST_PICTURES = 2500
"""Training pictures to describe, which takes minutes; far fewer make a gate that refuses less."""
MOST_ALTERED = 700
"""Training pictures that are altered, each in every way; more cost minutes."""
_REGULARISATION = 0.01
"""scikit-learn's C: strong, for there are more weights than pictures."""
_STEPS = 2000
"""At most; a regression that has not converged by then warns."""
_LEAST_SPREAD = 1e-3
"""A feature that never changes must not be divided by zero."""
_LEAST_EVIDENCE = math.log(2)
"""A picture that is rather not altered than altered is never refused for it."""
_BATCH = 16


def embed(network: Embed, pipeline: Pipeline, planes: Iterator[FloatArray]) -> FloatArray:
    """Embeddings (N, D) of N planes (1, rows, columns) in [0, 1], a batch at a time."""
    batches = iter(lambda: list(islice(planes, _BATCH)), [])
    parts = [network(np.stack([pipeline.tensor(plane) for plane in batch])) for batch in batches]
    return np.concatenate(parts)


def fit_scope(
    network: Embed,
    pipeline: Pipeline,
    train: Sequence[FloatArray],
    validation: Sequence[FloatArray],
    *,
    groups: int,
    seed: int,
) -> ScopeGate:
    """Describe the training pictures and set the limit on the validation pictures.

    Parameters
    ----------
    train, validation
        Planes (1, rows, columns) float32 in [0, 1].
    groups
        How many patients or documents the validation pictures are of.
    """
    generator = np.random.default_rng(seed)
    count = min(len(train), MOST_PICTURES)
    chosen = [train[index] for index in generator.permutation(len(train))[:count]]
    learned = embed(network, pipeline, _varied(chosen, generator))
    gate = fit_gate(learned, max(1, min(COMPONENTS, count // IMAGES_PER_COMPONENT)))
    altered = [
        embed(network, pipeline, (change(plane, generator) for plane in chosen[:MOST_ALTERED]))
        for _, change in ALTERATIONS.values()
    ]
    held_out = embed(network, pipeline, _varied(validation, generator))
    share = accepted(groups)
    alterations = _alterations(gate.standardised(learned), map(gate.standardised, altered))
    evidence = float(np.quantile(alterations.evidence(gate.standardised(held_out)), share))
    far = float(np.quantile(gate.distance(held_out), share))
    # So scaled, neither part alone would refuse more than the other, but for the least evidence.
    unit = float(np.float32(max(_LEAST_EVIDENCE, evidence) / far))
    gate = replace(gate, alterations=replace(alterations, unit=unit))
    return gate.with_limit(round(float(np.quantile(gate.distance(held_out), share)), 6))


def _alterations(learned: Standard, altered: Iterable[Standard]) -> Alterations:
    """Tell training pictures from altered copies: one class each, all of equal weight."""
    classes = [learned, *altered]
    features = np.concatenate(classes)
    # Altered copies may lie far out; the regression wants features of one size.
    middle, spread = features.mean(axis=0), np.maximum(features.std(axis=0), _LEAST_SPREAD)
    regression = LogisticRegression(C=_REGULARISATION, max_iter=_STEPS, class_weight="balanced")
    regression.fit(
        (features - middle) / spread,
        np.repeat(np.arange(len(classes)), [len(each) for each in classes]),
    )
    weights = (regression.coef_[1:] - regression.coef_[0]) / spread
    offsets = regression.intercept_[1:] - regression.intercept_[0] - weights @ middle
    return Alterations(
        words=tuple(word for word, _ in ALTERATIONS.values()),
        weights=weights.astype(np.float32),
        offsets=offsets.astype(np.float32),
        unit=1.0,
    )


def accepted(groups: int) -> float:
    """Share of the validation pictures, of so many groups, that the limit must let pass."""
    beyond = np.arange(groups)
    few = beyond[binom.cdf(beyond, groups, _REFUSED) <= _DOUBT]
    return max(ACCEPTED, 1 - float(few.max(initial=0)) / groups)


def judge(
    gate: ScopeGate,
    network: Embed,
    pipeline: Pipeline,
    pictures: Sequence[FloatArray],
    *,
    name: str,
    others: Sequence[Others],
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Share refused of the pictures, of mild variations, of outsiders made of them and of others.

    Parameters
    ----------
    pictures, name
        Planes (1, rows, columns) float32 in [0, 1] that the gate was not fitted on, and what to
        call them.
    others
        Pictures from elsewhere.

    Returns
    -------
    dict
        Name -> `n`, `refused` (share), `outside` (whether it ought to be refused); of an alteration
        also `named` (share that the gate calls by its word).
    """
    generator = np.random.default_rng(seed)

    def seen(planes: Iterator[FloatArray], *, outside: bool, word: str = "") -> dict[str, Any]:
        embedding = embed(network, pipeline, planes)
        refused = float((gate.distance(embedding) > 1).mean())
        figures = {"n": len(embedding), "refused": round(refused, 4), "outside": outside}
        if not word:
            return figures
        named = gate.looks(embedding).count(word) / len(embedding)
        return {**figures, "named": round(named, 4)}

    varied = (mild(plane, generator) for plane in pictures)
    result = {
        name: seen(iter(pictures), outside=False),
        f"{name}, mildly varied": seen(varied, outside=False),
    }
    for kind, (word, change) in ALTERATIONS.items():
        made = (change(plane, generator) for plane in pictures)
        result[kind] = seen(made, outside=True, word=word)
    for kind, change in STRANGERS.items():
        result[kind] = seen((change(plane, generator) for plane in pictures), outside=True)
    for other in others:
        result[other.name] = seen(iter(other.planes), outside=other.outside)
    return result


def _varied(planes: Sequence[FloatArray], generator: np.random.Generator) -> Iterator[FloatArray]:
    for plane in planes:
        yield plane
        for _ in range(_VARIATIONS):
            yield mild(plane, generator)
