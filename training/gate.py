"""Fit a model's scope gate on its training pictures and measure what it refuses.

Nothing foreign is learned from: the gate sees training pictures, clean and mildly varied, and its
limit comes from validation pictures, likewise. What it refuses of pictures that are something else
is measured afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from dicom_node.score.scope import ScopeGate, fit_gate
from dicom_node.score.transforms import FloatArray, Pipeline
from training.variations import OUTSIDERS, mild

Embed = Callable[[FloatArray], FloatArray]
"""A network: prepared images (N, 3, rows, columns) float32 to embeddings (N, D)."""

COMPONENTS = 128
IMAGES_PER_COMPONENT = 4
ACCEPTED = 0.97
"""Share of the validation pictures and their mild variations that the limit lets pass, at least."""
_REFUSED, _DOUBT = 0.05, 0.1
"""Of few validation pictures more must pass, so that with so little doubt no more than this share
of all such pictures is refused (a distribution-free tolerance limit, Wilks 1941). Of fewer than 45
all must, which leaves more doubt: 0.13 with 40."""
_VARIATIONS = 2
"""Of each picture. Without them the limit must be so wide that nothing is refused; eight of each
refused no more than two."""
MOST_PICTURES = 2500
"""Training pictures to describe, which takes minutes; far fewer make a gate that refuses less."""
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
    seed: int,
) -> ScopeGate:
    """Describe the training pictures and set the limit on the validation pictures.

    Parameters
    ----------
    train, validation
        Planes (1, rows, columns) float32 in [0, 1].
    """
    generator = np.random.default_rng(seed)
    count = min(len(train), MOST_PICTURES)
    chosen = [train[index] for index in generator.permutation(len(train))[:count]]
    learned = embed(network, pipeline, _varied(chosen, generator))
    gate = fit_gate(learned, max(1, min(COMPONENTS, count // IMAGES_PER_COMPONENT)))
    held_out = embed(network, pipeline, _varied(validation, generator))
    limit = float(np.quantile(gate.distance(held_out), accepted(len(validation))))
    return gate.with_limit(round(limit, 6))


def accepted(pictures: int) -> float:
    """Share of so many validation pictures that the limit must let pass."""
    beyond = np.arange(pictures)
    few = beyond[binom.cdf(beyond, pictures, _REFUSED) <= _DOUBT]
    return max(ACCEPTED, 1 - float(few.max(initial=0)) / pictures)


def judge(
    gate: ScopeGate,
    network: Embed,
    pipeline: Pipeline,
    pictures: Sequence[FloatArray],
    *,
    others: Mapping[str, Sequence[FloatArray]],
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Share refused of the pictures, of mild variations, of outsiders made of them and of others.

    Parameters
    ----------
    pictures
        Validation planes (1, rows, columns) float32 in [0, 1].
    others
        Pictures from elsewhere by name; what the gate was never meant for.

    Returns
    -------
    dict
        Name -> `n`, `refused` (share), `outside` (whether it ought to be refused).
    """
    generator = np.random.default_rng(seed)

    def refused(planes: Iterator[FloatArray]) -> NDArray[np.bool_]:
        return gate.distance(embed(network, pipeline, planes)) > 1

    result = {
        "validation": _share(refused(iter(pictures)), outside=False),
        "validation, mildly varied": _share(
            refused(mild(plane, generator) for plane in pictures), outside=False
        ),
    }
    for name, change in OUTSIDERS.items():
        made = (change(plane, generator) for plane in pictures)
        result[name] = _share(refused(made), outside=True)
    for name, planes in others.items():
        result[name] = _share(refused(iter(planes)), outside=True)
    return result


def _varied(planes: Sequence[FloatArray], generator: np.random.Generator) -> Iterator[FloatArray]:
    for plane in planes:
        yield plane
        for _ in range(_VARIATIONS):
            yield mild(plane, generator)


def _share(refused: NDArray[np.bool_], *, outside: bool) -> dict[str, Any]:
    return {"n": len(refused), "refused": round(float(refused.mean()), 4), "outside": outside}
