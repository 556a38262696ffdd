"""Does this picture look turned, inverted or cropped? Asked of the network's own embedding.

A softmax regression that learned to tell training images from altered copies of them; nothing else
is needed to notice a picture that was altered so (Golan and El-Yaniv 2018, arXiv:1805.10917).
Numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Alterations:
    """A ways in which a picture may have been altered.

    Attributes
    ----------
    words
        A words, not all different: what a picture that was altered so looks like.
    weights, offsets
        (A, D) and (A,) float32: the log odds of each way against none, from D standardised
        features.
    unit
        The evidence that counts as much as distance 1 from the training images.
    """

    words: tuple[str, ...]
    weights: FloatArray
    offsets: FloatArray
    unit: float

    @classmethod
    def none(cls, features: int) -> Alterations:
        """Knows no alteration: the evidence is always 0."""
        return cls((), np.zeros((0, features), np.float32), np.zeros(0, np.float32), 1.0)

    def evidence(self, standard: NDArray[np.float64]) -> NDArray[np.float64]:
        """Minus the logarithm of the probability that nothing was altered, (N,) from 0.

        Parameters
        ----------
        standard
            (N, D) standardised features.
        """
        return np.asarray(np.logaddexp.reduce(self._log_odds(standard), axis=1))

    def looks(self, standard: NDArray[np.float64]) -> list[str]:
        """The most probable word for each of N pictures, which may be that for nothing: empty."""
        log_odds = self._log_odds(standard)
        words = ("", *self.words)
        different = tuple(dict.fromkeys(words))
        among = np.array([[word == name for word in words] for name in different])
        together = np.where(among, log_odds[:, np.newaxis], -np.inf)
        return [different[place] for place in np.logaddexp.reduce(together, axis=2).argmax(axis=1)]

    def _log_odds(self, standard: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 1 + A): first comes nothing against itself."""
        against = standard @ self.weights.T.astype(np.float64) + self.offsets
        return np.concatenate([np.zeros((len(standard), 1)), against], axis=1)
