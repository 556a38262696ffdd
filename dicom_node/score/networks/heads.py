"""What every network gives, and heads that explain themselves in the forward pass.

A head maps feature maps (N, C, h, w) to logits (N, K) and Grad-CAM's maps (N, K, h, w) up to a
positive factor (Selvaraju et al. 2017, arXiv:1610.02391). Both heads here are piecewise linear in
the mean of each feature map, so the gradient that Grad-CAM averages is a product of weight
matrices: no backward pass is needed, and the maps can be exported to ONNX.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Output(NamedTuple):
    """What a network says of N images.

    Attributes
    ----------
    logits
        (N, K).
    activations
        (N, K, h, w): Grad-CAM's maps up to a positive factor, not yet cut off at zero.
    embedding
        (N, D) float32: spatial means of the middle and late stages, concatenated.
    """

    logits: Tensor
    activations: Tensor
    embedding: Tensor


class ClassActivationHead(nn.Linear):
    """Global average pooling, dropout and one linear layer (Zhou et al. 2016, arXiv:1512.04150).

    Parameters
    ----------
    channels, outputs
        C and K.
    dropout
        Probability with which a pooled channel is dropped in training.
    """

    def __init__(self, channels: int, outputs: int, *, dropout: float = 0.0) -> None:
        super().__init__(channels, outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Map (N, C, h, w) to logits (N, K) and activations (N, K, h, w)."""
        logits = super().forward(self.dropout(maps.mean(dim=(2, 3))))
        activations = functional.conv2d(maps, self.weight[:, :, None, None])
        return logits, activations


class LayeredHead(nn.Module):
    """Average pooling and several linear layers with ReLU and dropout between them.

    Parameters
    ----------
    sizes
        Features from the pooled channels C through the hidden layers to the outputs K.
    dropouts
        One for each hidden layer: the probability with which its outputs are dropped in training.
    window
        Side of the windows of an average pooling layer without padding, whose results are averaged;
        None averages over the whole map.
    """

    def __init__(
        self, sizes: Sequence[int], dropouts: Sequence[float], *, window: int | None = None
    ) -> None:
        super().__init__()
        pairs = pairwise(sizes)
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairs)
        self.dropouts = nn.ModuleList(nn.Dropout(share) for share in dropouts)
        self.pool = nn.Identity() if window is None else nn.AvgPool2d(window)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, C, h, w) to logits (N, K) and activations (N, K, h, w)."""
        values: Tensor = self.pool(maps).mean(dim=(2, 3))
        masks = []
        for layer, dropout in zip(self.layers[:-1], self.dropouts, strict=True):
            values = layer(values)
            masks.append((values > 0).to(values.dtype))
            values = dropout(functional.relu(values))
        logits: Tensor = self.layers[-1](values)
        return logits, _weighted(maps, self._gradient(masks))

    def _gradient(self, masks: Sequence[Tensor]) -> Tensor:
        """The logits' derivative by the pooled channels, without dropout: (N or 1, K, C)."""
        gradient = self.layers[-1].get_parameter("weight").unsqueeze(0)
        for layer, mask in zip(reversed(self.layers[:-1]), reversed(masks), strict=True):
            gradient = (gradient * mask.unsqueeze(1)) @ layer.get_parameter("weight")
        return gradient


def _weighted(maps: Tensor, weights: Tensor) -> Tensor:
    """Sum feature maps (N, C, h, w) with weights (N, K, C) to (N, K, h, w)."""
    flat = torch.matmul(weights.to(maps.dtype), maps.flatten(2))
    return flat.reshape(flat.shape[0], flat.shape[1], maps.shape[2], maps.shape[3])
