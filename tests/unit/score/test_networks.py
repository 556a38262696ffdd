"""Every network keeps one contract, and its maps are the Grad-CAM that autograd computes."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dicom_node.errors import ModelError
from dicom_node.paths import SHIPPED_MODELS
from dicom_node.score.bundle import INFERENCE, WEIGHTS
from dicom_node.score.networks import ARCHITECTURES, StagedNetwork, build
from dicom_node.score.networks.heads import LayeredHead

OUTPUTS = 3
# The smallest sides at which a feature map still has several cells.
SIDES = {"InceptionV3": 192, "VGG16": 160, "FiveBlockCNN": 96}
EMBEDDING = {
    "DenseNet121": 512 + 1024 + 1024,
    "EfficientNetB0": 80 + 112 + 320,
    "EfficientNetLite0": 40 + 80 + 112 + 192 + 320,
    "EfficientNetLite1": 40 + 80 + 112 + 192 + 320,
    "EfficientNetLite2": 48 + 88 + 120 + 208 + 352,
    "FiveBlockCNN": 128 + 128 + 256,
    "InceptionV3": 288 + 768 + 2048,
    "ResNet50": 512 + 1024 + 2048,
    "VGG16": 256 + 512 + 512,
}
every_architecture = pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))


@cache
def network_of(architecture: str) -> StagedNetwork:
    torch.manual_seed(5)
    return build(architecture, OUTPUTS).eval()


def images_for(architecture: str, count: int = 1) -> Tensor:
    side = SIDES.get(architecture, 96)
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(7))


def grad_cam(network: StagedNetwork, images: Tensor) -> Tensor:
    """Grad-CAM as published: pooled gradients weight the feature maps; (N, K, h, w)."""
    with torch.no_grad():
        maps, _ = network.encode(images)
    maps.requires_grad_()
    logits, _ = network.classify(maps)
    weighted = []
    for output in range(logits.shape[1]):
        (gradient,) = torch.autograd.grad(logits[:, output].sum(), maps, retain_graph=True)
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        weighted.append((weights * maps.detach()).sum(dim=1))
    return torch.stack(weighted, dim=1)


@every_architecture
def test_activations_are_the_grad_cam_of_autograd(architecture: str) -> None:
    network, images = network_of(architecture), images_for(architecture, 2)
    with torch.no_grad():
        ours = network(images).activations
    expected = grad_cam(network, images)
    assert ours.shape == expected.shape
    assert ours[0, 0].numel() > 3
    for image in range(len(images)):
        for output in range(OUTPUTS):
            one, other = ours[image, output].flatten(), expected[image, output].flatten()
            factor = (one @ other) / (other @ other)
            assert factor > 0
            assert np.corrcoef(one, other)[0, 1] > 0.999
            assert torch.allclose(one, factor * other, rtol=1e-3, atol=1e-4 * float(one.std()))


@every_architecture
def test_the_output_has_the_shapes_of_the_contract(architecture: str) -> None:
    network, images = network_of(architecture), images_for(architecture)
    with torch.no_grad():
        output = network(images)
        assert torch.equal(network(images).logits, output.logits)
    assert output.logits.shape == (1, OUTPUTS)
    assert output.activations.shape[:2] == (1, OUTPUTS)
    assert output.embedding.shape == (1, EMBEDDING[architecture])
    assert {value.dtype for value in output} == {torch.float32}


@every_architecture
def test_every_parameter_is_in_one_group_and_the_head_is_the_last(architecture: str) -> None:
    network = network_of(architecture)
    groups = network.layer_groups()
    grouped = [id(parameter) for group in groups for parameter in group.parameters()]
    assert len(groups) >= 3
    assert sorted(grouped) == sorted(id(parameter) for parameter in network.parameters())
    head = {id(parameter) for parameter in groups[-1].parameters()}
    logits, _ = network.classify(network.encode(images_for(architecture))[0].detach())
    network.zero_grad()
    torch.autograd.backward(logits.sum())
    reached = {id(p) for p in network.parameters() if p.grad is not None}
    network.zero_grad()
    assert reached == head


@every_architecture
def test_other_weights_give_another_map(architecture: str) -> None:
    images = images_for(architecture)
    torch.manual_seed(6)
    randomised = build(architecture, OUTPUTS).eval()
    with torch.no_grad():
        before = network_of(architecture)(images).activations[0]
        after = randomised(images).activations[0]
    for one, other in zip(before, after, strict=True):
        assert abs(np.corrcoef(one.flatten(), other.flatten())[0, 1]) < 0.99


@pytest.mark.parametrize("architecture", ["EfficientNetLite0", "FiveBlockCNN"])
def test_one_training_step_reaches_every_parameter(architecture: str) -> None:
    network = build(architecture, OUTPUTS).train()
    output = network(images_for(architecture, 4))
    torch.autograd.backward(output.logits.square().sum())
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("window", [None, 4])
def test_a_deep_head_explains_itself_exactly(window: int | None) -> None:
    torch.manual_seed(9)
    head = LayeredHead((12, 9, 7, 5, OUTPUTS), (0.5, 0.5, 0.5), window=window).eval()
    maps = torch.randn(4, 12, 8, 8, requires_grad=True)
    logits, activations = head(maps)
    for output in range(OUTPUTS):
        (gradient,) = torch.autograd.grad(logits[:, output].sum(), maps, retain_graph=True)
        weights = gradient.sum(dim=(2, 3), keepdim=True)
        expected = (weights * maps).sum(dim=1)
        assert torch.allclose(activations[:, output], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("architecture", "millions"),
    # As published, with 1000 outputs (Lite's bias included).
    [
        ("EfficientNetLite0", 4.65),
        ("EfficientNetLite1", 5.42),
        ("EfficientNetLite2", 6.09),
        ("EfficientNetB0", 5.29),
        ("DenseNet121", 7.97),
    ],
)
def test_sizes_are_the_published_ones(architecture: str, millions: float) -> None:
    network = ARCHITECTURES[architecture](1000)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.01)


def test_the_shipped_weights_load() -> None:
    loaded = 0
    for declaration in SHIPPED_MODELS.glob(f"*/{INFERENCE}"):
        if "EfficientNetLite0" in declaration.read_text():
            weights = load_file(declaration.parents[1] / WEIGHTS)
            build("EfficientNetLite0", len(weights["bias"])).load_state_dict(weights)
            loaded += 1
    assert loaded


@pytest.mark.parametrize(
    ("architecture", "constructor", "head"),
    [
        ("VGG16", "vgg16", ("classifier.",)),
        ("ResNet50", "resnet50", ("fc.",)),
        ("InceptionV3", "inception_v3", ("fc.", "AuxLogits.")),
        ("EfficientNetB0", "efficientnet_b0", ("classifier.",)),
    ],
)
def test_backbone_keys_and_shapes_are_torchvisions(
    architecture: str, constructor: str, head: tuple[str, ...]
) -> None:
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        options = {"init_weights": False} if constructor in ("vgg16", "inception_v3") else {}
        published: nn.Module = getattr(models, constructor)(weights=None, **options)
    expected = {
        key: value.shape
        for key, value in published.state_dict().items()
        if not key.startswith(head)
    }
    ours = {
        key: value.shape
        for key, value in network_of(architecture).state_dict().items()
        if not key.startswith("head.")
    }
    assert ours == expected


def test_the_densenet_looks_at_the_first_channel_only() -> None:
    network, images = network_of("DenseNet121"), images_for("DenseNet121")
    changed = images.clone()
    changed[:, 1:] = 0
    with torch.no_grad():
        assert torch.equal(network(images).logits, network(changed).logits)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"'AlexNet' is not known.*EfficientNetLite0"):
        build("AlexNet", 1)


def test_a_missing_torchvision_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ModelError, match=r"ResNet50 needs torchvision.*dicom_node\[train\]"):
        build("ResNet50", 1)


def test_the_list_of_networks_is_there_without_torchvision() -> None:
    code = "import sys, dicom_node.score.networks; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
