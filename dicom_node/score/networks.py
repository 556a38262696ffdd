"""Architectures that a model folder may name; nothing else is ever built.

Every network maps (N, 3, H, W) float32 to `(logits, activations)`: logits (N, F) and raw class
activation maps (N, F, h, w) whose spatial mean plus the class's bias is the logit. For such
global-average-pooling networks the map equals Grad-CAM up to a positive factor (Zhou et al. 2016,
arXiv:1512.04150; Selvaraju et al. 2017, arXiv:1610.02391), and costs no backward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

_BATCH_NORM_EPSILON = 1e-3
_BATCH_NORM_MOMENTUM = 0.05
_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280
_DROPOUT = 0.2

# (repeats, kernel, stride, expansion, output channels): EfficientNet-Lite0, no squeeze-excitation,
# ReLU6 (tensorflow/tpu, models/official/efficientnet/lite).
_LITE0_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


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


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 whose head gives class activation maps beside the logits.

    Parameters
    ----------
    findings
        Number of outputs F.
    """

    def __init__(self, findings: int) -> None:
        super().__init__()
        stem = [
            _convolution(3, _STEM_CHANNELS, 3, stride=2),
            _batch_norm(_STEM_CHANNELS),
            nn.ReLU6(inplace=True),
        ]
        blocks: list[nn.Module] = []
        channels = _STEM_CHANNELS
        for repeats, kernel, stride, expansion, outputs in _LITE0_STAGES:
            for repeat in range(repeats):
                blocks.append(
                    InvertedResidual(
                        channels,
                        outputs,
                        kernel=kernel,
                        stride=stride if repeat == 0 else 1,
                        expansion=expansion,
                    )
                )
                channels = outputs
        tail = [
            _convolution(channels, _HEAD_CHANNELS, 1),
            _batch_norm(_HEAD_CHANNELS),
            nn.ReLU6(inplace=True),
        ]
        self.features = nn.Sequential(*stem, *blocks, *tail)
        self.dropout = nn.Dropout2d(_DROPOUT)
        self.head = nn.Conv2d(_HEAD_CHANNELS, findings, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(findings))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score images.

        Parameters
        ----------
        images
            (N, 3, H, W) float32, H and W multiples of 32.

        Returns
        -------
        tuple
            logits (N, F) and raw class activation maps (N, F, H / 32, W / 32).
        """
        activations: Tensor = self.head(self.dropout(self.features(images)))
        return activations.mean(dim=(2, 3)) + self.bias, activations


ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {"EfficientNetLite0": EfficientNetLite0}
"""Name in `configs/inference.json` -> constructor that takes the number of findings."""
