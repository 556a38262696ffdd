"""DenseNet-121 with the keys of TorchXRayVision's networks (Huang et al. 2017, arXiv:1608.06993).

Those networks look at one gray channel; of our three equal channels the first is taken.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from dicom_node.score.networks.heads import ClassActivationHead
from dicom_node.score.networks.staged import StagedNetwork

_GROWTH = 32
_BOTTLENECK = 4 * _GROWTH
_STEM_CHANNELS = 64
_BLOCKS = (6, 12, 24, 16)


class _FirstChannel(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) to (N, 1, H, W)."""
        return images[:, :1]


class _DenseLayer(nn.Sequential):
    def __init__(self, channels: int) -> None:
        super().__init__(
            OrderedDict[str, nn.Module](
                norm1=nn.BatchNorm2d(channels),
                relu1=nn.ReLU(inplace=True),
                conv1=nn.Conv2d(channels, _BOTTLENECK, 1, bias=False),
                norm2=nn.BatchNorm2d(_BOTTLENECK),
                relu2=nn.ReLU(inplace=True),
                conv2=nn.Conv2d(_BOTTLENECK, _GROWTH, 3, padding=1, bias=False),
            )
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, C + 32, h, w)."""
        grown = maps
        for layer in self:
            grown = layer(grown)
        return torch.cat([maps, grown], dim=1)


def densenet121(outputs: int) -> StagedNetwork:
    """DenseNet-121 on the first channel; ReLU, global average, Dense K."""
    features = nn.Sequential(
        OrderedDict[str, nn.Module](
            conv0=nn.Conv2d(1, _STEM_CHANNELS, 7, stride=2, padding=3, bias=False),
            norm0=nn.BatchNorm2d(_STEM_CHANNELS),
            relu0=nn.ReLU(inplace=True),
            pool0=nn.MaxPool2d(3, stride=2, padding=1),
        )
    )
    channels = _STEM_CHANNELS
    for number, layers in enumerate(_BLOCKS, start=1):
        named = ((f"denselayer{i + 1}", _DenseLayer(channels + i * _GROWTH)) for i in range(layers))
        features.add_module(f"denseblock{number}", nn.Sequential(OrderedDict(named)))
        channels += layers * _GROWTH
        if number < len(_BLOCKS):
            features.add_module(f"transition{number}", _transition(channels))
            channels //= 2
    features.add_module("norm5", nn.BatchNorm2d(channels))
    for layer in features.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return StagedNetwork(
        {"first_channel": _FirstChannel(), "features": features, "relu": nn.ReLU()},
        ["first_channel", *(f"features.{name}" for name, _ in features.named_children()), "relu"],
        taps=("features.denseblock2", "features.denseblock3", "relu"),
        groups=("features.denseblock2", "features.denseblock3", "features.denseblock4"),
        head=ClassActivationHead(channels, outputs),
        head_name="classifier",
    )


def _transition(channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(channels),
            relu=nn.ReLU(inplace=True),
            conv=nn.Conv2d(channels, channels // 2, 1, bias=False),
            pool=nn.AvgPool2d(2, stride=2),
        )
    )
