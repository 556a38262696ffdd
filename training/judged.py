"""Labelled pictures beside what a classifier calls them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from dicom_node.errors import BadInput

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What was said of N pictures beside what is true.

    Attributes
    ----------
    labels
        C label words.
    main
        Place of the main finding's label.
    targets, called
        (N,): class that is true, and class that is called.
    probabilities
        (N, C) calibrated.
    truth, found
        (N,): whether the main finding is there, and whether its threshold is reached.
    """

    labels: tuple[str, ...]
    main: int
    targets: Indices
    called: Indices
    probabilities: Array
    truth: Flags
    found: Flags

    @property
    def scores(self) -> Array:
        """Probabilities (N,) of the main finding."""
        return np.asarray(self.probabilities[:, self.main])

    @property
    def right(self) -> Flags:
        """Whether the class that is called is the true one, (N,)."""
        return np.asarray(self.called == self.targets)

    @property
    def ranked(self) -> tuple[int, ...]:
        """Places of labels whose AUC counts: the main one of two, of more each that occurs."""
        if len(self.labels) == 2:
            return (self.main,)
        there = [bool((self.targets == place).any()) for place in range(len(self.labels))]
        return tuple(np.flatnonzero(there).tolist()) if sum(there) > 1 else ()

    def promised(self) -> tuple[Flags, Array]:
        """Whether it came true, and its probability: of the finding or, of three, of the call."""
        if len(self.labels) == 2:
            return self.truth, self.scores
        return self.right, np.asarray(self.probabilities.max(axis=1))

    def squared_error(self) -> Array:
        """Brier's (1950) error (N,): of the finding, or summed over three or more classes."""
        if len(self.labels) == 2:
            return np.asarray((self.scores - self.truth) ** 2)
        wanted = np.eye(len(self.labels))[self.targets]
        return np.asarray(((self.probabilities - wanted) ** 2).sum(axis=1))

    def matrix(self) -> list[list[int]]:
        """How many pictures of each label (rows) were called each label (columns)."""
        size = len(self.labels)
        if not len(self.targets):
            return [[0] * size for _ in range(size)]
        table = confusion_matrix(self.targets, self.called, labels=list(range(size)))
        return [[int(value) for value in row] for row in table]


def judge(
    targets: Indices, outputs: Array, *, labels: Sequence[str], positive: str, threshold: float
) -> Judged:
    """Call every picture: of two labels by threshold, of more the most probable one.

    Parameters
    ----------
    targets
        (N,): places in `labels`.
    outputs
        (N, K) calibrated probabilities: K is 1 (of `positive`) or one for each of `labels`.

    Raises
    ------
    BadInput
        A probability that is no number from 0 to 1.
    """
    _check(targets, outputs, labels)
    main = labels.index(positive)
    if outputs.shape[1] == 1 and len(labels) != 2:
        # One probability says nothing of what else a picture shows.
        targets, labels, main = np.asarray(targets == main) * 1, (f"not {positive}", positive), 1
    if outputs.shape[1] == 1:
        both = (1 - outputs, outputs) if main == 1 else (outputs, 1 - outputs)
        outputs = np.concatenate(both, axis=1)
    found = outputs[:, main] >= threshold
    called = np.where(found, main, 1 - main) if len(labels) == 2 else outputs.argmax(axis=1)
    return Judged(tuple(labels), main, targets, called, outputs, targets == main, found)


def _check(targets: Indices, outputs: Array, labels: Sequence[str]) -> None:
    count, width = outputs.shape
    if len(targets) != count or width not in {1, len(labels)}:
        raise ValueError(f"{len(targets)} targets, {len(labels)} labels, outputs {outputs.shape}")
    if count and not 0 <= int(targets.min()) <= int(targets.max()) < len(labels):
        raise ValueError(f"targets are not places in {len(labels)} labels")
    bad = np.flatnonzero(~((outputs >= 0) & (outputs <= 1)).all(axis=1))
    if len(bad):
        raise BadInput(
            f"picture {int(bad[0]) + 1} of {count} has a probability that is no number from 0 to 1 "
            f"({len(bad)} have); the weights are broken: train or export again"
        )
