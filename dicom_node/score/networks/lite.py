"""EfficientNet-Lite0, 1 and 2: no squeeze-excitation, ReLU6, stem and head of fixed width.

After tensorflow/tpu, models/official/efficientnet/lite. Images have sides that are multiples of 32:
the padding equals TensorFlow's SAME for even sizes only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dicom_node.score.networks.staged import StagedNetwork, numbered

_BATCH_NORM_EPSILON = 1e-3
_BATCH_NORM_MOMENTUM = 0.05
_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280
_CHANNEL_MULTIPLE = 8

# (repeats, kernel, stride, expansion, output channels) of Lite0; the others scale it.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_TAPPED_STAGES = frozenset({2, 3, 4, 5, 6})
_GROUP_STAGES = frozenset({3, 5, 6})


def _convolution(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, depthwise: bool = False
) -> nn.Module:
    """A bias-free convolution padded as TensorFlow's SAME for even input sizes."""
    groups = inputs if depthwise else 1
    if stride == 1:
        return nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, groups=groups, bias=False)
    before = (kernel - stride) // 2
    padding = nn.ZeroPad2d((before, kernel - stride - before) * 2)
    return nn.Sequential(
        padding, nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
    )


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_BATCH_NORM_EPSILON, momentum=_BATCH_NORM_MOMENTUM)


class InvertedResidual(nn.Module):
    """Expand, filter by channel, project; add the input where the shape allows."""

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [_convolution(inputs, hidden, 1), _batch_norm(hidden), nn.ReLU6(inplace=True)]
        layers += [
            _convolution(hidden, hidden, kernel, stride=stride, depthwise=True),
            _batch_norm(hidden),
            nn.ReLU6(inplace=True),
            _convolution(hidden, outputs, 1),
            _batch_norm(outputs),
        ]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        result: Tensor = self.layers(images)
        return images + result if self.residual else result


class EfficientNetLite(StagedNetwork):
    """EfficientNet-Lite with a class activation head without bias inside the map.

    Parameters
    ----------
    outputs
        Number of outputs K.
    width, depth
        Factors on the stages' channels and repeats.
    dropout
        Probability with which a channel before the head is dropped in training.
    """

    def __init__(self, outputs: int, *, width: float, depth: float, dropout: float) -> None:
        layers: list[nn.Module] = [
            _convolution(3, _STEM_CHANNELS, 3, stride=2),
            _batch_norm(_STEM_CHANNELS),
            nn.ReLU6(inplace=True),
        ]
        channels, taps, groups = _STEM_CHANNELS, [], []
        for stage, (repeats, kernel, stride, expansion, base) in enumerate(_STAGES):
            wanted = _scaled_channels(base, width)
            if stage in _GROUP_STAGES:
                groups.append(f"features.{len(layers)}")
            for repeat in range(_scaled_repeats(repeats, depth, stage)):
                layers.append(
                    InvertedResidual(
                        channels,
                        wanted,
                        kernel=kernel,
                        stride=stride if repeat == 0 else 1,
                        expansion=expansion,
                    )
                )
                channels = wanted
            if stage in _TAPPED_STAGES:
                taps.append(f"features.{len(layers) - 1}")
        layers += [
            _convolution(channels, _HEAD_CHANNELS, 1),
            _batch_norm(_HEAD_CHANNELS),
            nn.ReLU6(inplace=True),
        ]
        super().__init__(
            {"features": nn.Sequential(*layers)},
            numbered("features", len(layers)),
            taps=taps,
            groups=groups,
            head=nn.Conv2d(_HEAD_CHANNELS, outputs, 1, bias=False),
        )
        self.dropout = nn.Dropout2d(dropout)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def classify(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Map feature maps (N, 1280, h, w) to logits (N, K) and activations (N, K, h, w)."""
        activations: Tensor = self.get_submodule("head")(self.dropout(maps))
        return activations.mean(dim=(2, 3)) + self.bias, activations

    def _head_group(self) -> nn.ModuleList:
        return nn.ModuleList([self.get_submodule("head"), nn.ParameterList([self.bias])])


def efficientnet_lite0(outputs: int) -> EfficientNetLite:
    """EfficientNet-Lite0, made for 224 x 224."""
    return EfficientNetLite(outputs, width=1.0, depth=1.0, dropout=0.2)


def efficientnet_lite1(outputs: int) -> EfficientNetLite:
    """EfficientNet-Lite1, made for 240 x 240."""
    return EfficientNetLite(outputs, width=1.0, depth=1.1, dropout=0.2)


def efficientnet_lite2(outputs: int) -> EfficientNetLite:
    """EfficientNet-Lite2, made for 260 x 260."""
    return EfficientNetLite(outputs, width=1.1, depth=1.2, dropout=0.3)


def _scaled_channels(channels: int, width: float) -> int:
    """The multiple of 8 nearest to the scaled number, never more than a tenth below it."""
    scaled = channels * width
    rounded = max(
        _CHANNEL_MULTIPLE,
        int(scaled + _CHANNEL_MULTIPLE / 2) // _CHANNEL_MULTIPLE * _CHANNEL_MULTIPLE,
    )
    return rounded + _CHANNEL_MULTIPLE if rounded < 0.9 * scaled else rounded


def _scaled_repeats(repeats: int, depth: float, stage: int) -> int:
    """The first and the last stage keep their repeats."""
    return repeats if stage in (0, len(_STAGES) - 1) else math.ceil(depth * repeats)
