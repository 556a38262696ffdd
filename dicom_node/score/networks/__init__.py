"""Architectures that a model folder may name; nothing else is ever built.

Every network maps images (N, 3, H, W) float32 to an `Output` and lists its `layer_groups()` from
the input to the head.
"""

from __future__ import annotations

from collections.abc import Callable

from dicom_node.errors import ModelError
from dicom_node.score.networks.classic import efficientnet_b0, inception_v3, resnet50, vgg16
from dicom_node.score.networks.densenet import densenet121
from dicom_node.score.networks.heads import Output
from dicom_node.score.networks.lite import (
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
)
from dicom_node.score.networks.scratch import five_block_cnn
from dicom_node.score.networks.staged import StagedNetwork

__all__ = ["ARCHITECTURES", "Output", "StagedNetwork", "build"]

ARCHITECTURES: dict[str, Callable[[int], StagedNetwork]] = {
    "DenseNet121": densenet121,
    "EfficientNetB0": efficientnet_b0,
    "EfficientNetLite0": efficientnet_lite0,
    "EfficientNetLite1": efficientnet_lite1,
    "EfficientNetLite2": efficientnet_lite2,
    "FiveBlockCNN": five_block_cnn,
    "InceptionV3": inception_v3,
    "ResNet50": resnet50,
    "VGG16": vgg16,
}
"""Name in `configs/inference.json` -> constructor that takes the number of outputs K."""


def build(architecture: str, outputs: int) -> StagedNetwork:
    """Make a network with random weights.

    Raises
    ------
    ModelError
        The name is not in the list, or the architecture needs torchvision and that is absent.
    """
    constructor = ARCHITECTURES.get(architecture)
    if constructor is None:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ModelError(f"architecture {architecture!r} is not known; known are {known}")
    try:
        return constructor(outputs)
    except ImportError as error:
        raise ModelError(
            f"architecture {architecture} needs torchvision: install dicom_node[train]"
        ) from error
