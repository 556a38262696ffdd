"""Targets as probabilities, and the loss on them: smoothing, class weights, mixup, teachers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from training.recipes.base import Function


def hard_targets(targets: Sequence[int], function: Function, labels: int) -> Tensor:
    """Indices into the labels as probabilities (N, K): K is 1 for `sigmoid`, else `labels`."""
    indices = torch.tensor(list(targets), dtype=torch.long)
    if function == "sigmoid":
        return indices.to(torch.float32)[:, None]
    return functional.one_hot(indices, labels).to(torch.float32)


def probabilities(logits: Tensor, function: Function) -> Tensor:
    """Uncalibrated probabilities (N, K) of logits (N, K)."""
    return torch.sigmoid(logits) if function == "sigmoid" else torch.softmax(logits, dim=1)


def class_weights(targets: Sequence[int], labels: int) -> Tensor:
    """Weights (labels,) under which all classes weigh the same and the mean weight is 1."""
    counts = np.bincount(list(targets), minlength=labels)
    return torch.tensor(len(targets) / (labels * np.maximum(counts, 1)), dtype=torch.float32)


class SoftLoss(nn.Module):
    """Cross-entropy of logits (N, K) and probabilities (N, K), mean over N.

    Parameters
    ----------
    function
        `sigmoid` with one output for two labels, or `softmax`.
    weights
        Of the labels, (2,) or (K,).
    smoothing
        How far targets move towards equal probabilities, in [0, 1).
    """

    def __init__(self, function: Function, weights: Tensor, smoothing: float) -> None:
        super().__init__()
        self._function = function
        self._smoothing = smoothing
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss, a scalar."""
        if self._function == "sigmoid":
            # As softmax of (0, logit) with the probabilities of both labels.
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
            targets = torch.cat([1 - targets, targets], dim=1)
        return functional.cross_entropy(
            logits,
            targets,
            weight=self.get_buffer("weights"),
            label_smoothing=self._smoothing,
        )


def mixed(images: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018, arXiv:1710.09412): one share for the batch, partners by chance.

    Parameters
    ----------
    images, targets
        (N, 3, H, W) and (N, K).
    alpha
        Both parameters of the Beta distribution, > 0.
    """
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    partners = torch.randperm(len(images), device=images.device)
    return (
        share * images + (1 - share) * images[partners],
        share * targets + (1 - share) * targets[partners],
    )


def called(outputs: NDArray[np.float64], function: Function) -> NDArray[np.int64]:
    """Index of the most probable label (N,) of probabilities (N, K)."""
    if function == "sigmoid":
        return (outputs[:, 0] >= 0.5).astype(np.int64)
    return np.asarray(outputs.argmax(axis=1), dtype=np.int64)
