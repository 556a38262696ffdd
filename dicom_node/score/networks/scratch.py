"""A small network to be trained from random weights."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from dicom_node.score.networks.heads import LayeredHead
from dicom_node.score.networks.staged import StagedNetwork, numbered

_CHANNELS = (3, 32, 64, 128, 128, 256)
_HIDDEN = (256, 128, 64)
_DROPOUTS = (0.5, 0.3, 0.2)


def five_block_cnn(outputs: int) -> StagedNetwork:
    """Five blocks of convolution, max pool and batch norm; global average; four dense layers."""
    features = nn.Sequential(
        *(
            nn.Sequential(
                nn.Conv2d(before, after, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
                nn.BatchNorm2d(after),
            )
            for before, after in pairwise(_CHANNELS)
        )
    )
    return StagedNetwork(
        {"features": features},
        numbered("features", len(features)),
        taps=("features.2", "features.3", "features.4"),
        groups=("features.2", "features.4"),
        head=LayeredHead((_CHANNELS[-1], *_HIDDEN, outputs), _DROPOUTS),
    )
