"""Published backbones of torchvision with heads that explain themselves.

The backbones keep torchvision's names, so that its ImageNet state dicts load but for the head's
keys. torchvision is imported only when one of them is built: a node runs them from ONNX without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import nn

from dicom_node.score.networks.heads import ClassActivationHead, LayeredHead
from dicom_node.score.networks.staged import StagedNetwork, numbered

_POOL_WINDOW = 4
_INCEPTION_ORDER = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1"),
    *("Conv2d_4a_3x3", "maxpool2", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b"),
    *("Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c"),
)
_RESNET_ORDER = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


def vgg16(outputs: int) -> StagedNetwork:
    """VGG16; AveragePool 4 x 4, Dense 64, ReLU, Dropout 0.5, Dense K. Sides of 128 or more."""
    vgg: Any = import_module("torchvision.models.vgg")
    features = vgg.make_layers(vgg.cfgs["D"])
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return StagedNetwork(
        {"features": features},
        numbered("features", len(features)),
        # The last layer of the third, fourth and fifth block, and the first.
        taps=("features.16", "features.23", "features.30"),
        groups=("features.10", "features.17", "features.24"),
        head=LayeredHead((512, 64, outputs), (0.5,), window=_POOL_WINDOW),
    )


def inception_v3(outputs: int) -> StagedNetwork:
    """Inception V3 without its auxiliary output; head as `vgg16`. Sides of 192 or more."""
    models: Any = import_module("torchvision.models")
    body = models.inception_v3(weights=None, aux_logits=False, init_weights=True)
    return StagedNetwork(
        {name: body.get_submodule(name) for name in _INCEPTION_ORDER},
        _INCEPTION_ORDER,
        taps=("Mixed_5d", "Mixed_6e", "Mixed_7c"),
        groups=("Mixed_6a", "Mixed_7a"),
        head=LayeredHead((2048, 64, outputs), (0.5,), window=_POOL_WINDOW),
    )


def resnet50(outputs: int) -> StagedNetwork:
    """ResNet50; global average, Dense 512, ReLU, Dropout 0.5, Dense K."""
    models: Any = import_module("torchvision.models")
    body = models.resnet50(weights=None)
    return StagedNetwork(
        {name: body.get_submodule(name) for name in _RESNET_ORDER},
        _RESNET_ORDER,
        taps=("layer2", "layer3", "layer4"),
        groups=("layer3",),
        head=LayeredHead((2048, 512, outputs), (0.5,)),
    )


def efficientnet_b0(outputs: int) -> StagedNetwork:
    """EfficientNet-B0; global average, Dropout 0.2, Dense K."""
    models: Any = import_module("torchvision.models")
    features = models.efficientnet_b0(weights=None).features
    return StagedNetwork(
        {"features": features},
        numbered("features", len(features)),
        taps=("features.4", "features.5", "features.7"),
        groups=("features.3", "features.5"),
        head=ClassActivationHead(1280, outputs, dropout=0.2),
    )
