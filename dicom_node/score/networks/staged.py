"""Layers one after another, with taps for the embedding and groups for training."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from dicom_node.score.networks.heads import Output


class StagedNetwork(nn.Module):
    """A backbone of named layers and a head that explains itself.

    Parameters
    ----------
    parts
        Name -> module; the names are the first words of the state dict's keys.
    order
        Dotted names of the layers in the order in which images pass them.
    taps
        Those of `order` after which the spatial mean goes into the embedding.
    groups
        Those of `order` that begin a layer group; the first layer does anyhow.
    head
        Maps (N, C, h, w) to logits (N, K) and activations (N, K, h, w).
    head_name
        First word of the head's keys in the state dict.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        order: Sequence[str],
        *,
        taps: Collection[str],
        groups: Collection[str],
        head: nn.Module,
        head_name: str = "head",
    ) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.add_module(head_name, head)
        self._order, self._head_name = tuple(order), head_name
        self._taps, self._groups = frozenset(taps), frozenset(groups)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, 3, H, W) float32 to feature maps (N, C, h, w) and the embedding (N, D)."""
        means = []
        for name in self._order:
            images = self.get_submodule(name)(images)
            if name in self._taps:
                means.append(images.float().mean(dim=(2, 3)))
        return images, torch.cat(means, dim=1)

    def classify(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Map feature maps (N, C, h, w) to logits (N, K) and activations (N, K, h, w)."""
        logits, activations = self.get_submodule(self._head_name)(maps)
        return logits, activations

    def forward(self, images: Tensor) -> Output:
        """Score images (N, 3, H, W) float32; see `Output`."""
        maps, embedding = self.encode(images)
        return Output(*self.classify(maps), embedding)

    def layer_groups(self) -> list[nn.ModuleList]:
        """Every parameter once, from the input to the head, which is the last group."""
        groups = [nn.ModuleList()]
        for name in self._order:
            if name in self._groups and len(groups[-1]) > 0:
                groups.append(nn.ModuleList())
            groups[-1].append(self.get_submodule(name))
        return [*groups, self._head_group()]

    def _head_group(self) -> nn.ModuleList:
        return nn.ModuleList([self.get_submodule(self._head_name)])


def numbered(part: str, layers: int) -> list[str]:
    """The dotted names of the layers of a sequence: `part.0`, `part.1`, ..."""
    return [f"{part}.{index}" for index in range(layers)]
