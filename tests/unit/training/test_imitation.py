"""A network learns to see as another does: resumable, without labels, without the validation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import Bottleneck, ResNet

from dicom_node.errors import BadInput
from dicom_node.score.networks import StagedNetwork, build
from dicom_node.score.transforms import FloatArray, Pipeline
from training import imitation
from training.changes import overridden
from training.ct_network import SliceEncoder
from training.data import Item, Picture, Splits
from training.errors import TrainingError
from training.fit import fit
from training.imitation import Imitation, imitate
from training.progress import FitProgress
from training.recipes.base import Recipe
from training.runs import read_json
from training.views import VIEWS, Components, Seen, Views, look

from .tiny import SIDE, small

EPOCHS = 3
Made = Callable[[], SliceEncoder]


class DeepConvolution(nn.Conv3d):
    """Pads series in depth with their first and last slice."""

    def forward(self, series: Tensor) -> Tensor:
        depth = self.kernel_size[0] // 2
        padded = functional.pad(series, (0, 0, 0, 0, depth, depth), mode="replicate")
        return super().forward(padded)


def deepened(flat: nn.Module) -> None:
    """Turn every 2D layer of a network into a 3D one with random kernels, three slices deep."""
    for name, module in flat.named_children():
        deep: nn.Module | None = None
        if isinstance(module, nn.Conv2d):
            depth = 3 if module.kernel_size[0] > 1 else 1
            deep = DeepConvolution(
                module.in_channels,
                module.out_channels,
                (depth, *module.kernel_size),
                stride=(1, *module.stride),
                padding=(0, *module.padding),  # type: ignore[arg-type]
                bias=False,
            )
        elif isinstance(module, nn.BatchNorm2d):
            deep = nn.BatchNorm3d(module.num_features)
            deep.running_mean = torch.randn(module.num_features) * 0.1
        elif isinstance(module, nn.MaxPool2d):
            deep = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        if deep is None:
            deepened(module)
        else:
            setattr(flat, name, deep)


@pytest.fixture(scope="module")
def volume_network() -> ResNet:
    torch.manual_seed(1)
    network = ResNet(Bottleneck, [1, 2, 1, 1])
    network.fc = nn.Identity()  # type: ignore[assignment]
    deepened(network)
    return network.eval()


@pytest.fixture(scope="module")
def encoder(volume_network: ResNet) -> SliceEncoder:
    return SliceEncoder(volume_network.state_dict())


@pytest.fixture(autouse=True)
def as_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, and no bfloat16, so that figures can be compared."""
    torch.set_num_threads(1)
    off = torch.autocast("cpu", torch.bfloat16, enabled=False)
    for module in ("training.ct_network", "training.imitation"):
        monkeypatch.setattr(f"{module}.autocast", lambda device: off)


@pytest.fixture
def published(encoder: SliceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for the published encoder, which takes 187 MB."""
    monkeypatch.setattr(imitation, "slice_encoder", lambda: encoder)


@pytest.fixture
def recipe() -> Recipe:
    return replace(overridden(small("ct_covid"), {"imitation_epochs": str(EPOCHS)}), name="toy")


def pictures(count: int, first: int) -> list[Picture]:
    made = []
    for number in range(first, first + count):
        plane = np.random.default_rng(number).uniform(0, 0.4, (1, SIDE, SIDE)).astype(np.float32)
        plane[:, 8 : 12 + number % 12, 8:24] += 0.5
        label = ("noncovid", "covid")[number % 2]
        made.append(Picture(Item(f"{number}.png", label, "", f"g{number}", {}), plane, number % 2))
    return made


@pytest.fixture
def splits() -> Splits:
    return Splits(pictures(12, 0), pictures(6, 100), [])


def untrained(recipe: Recipe, seed: int = 2) -> StagedNetwork:
    torch.manual_seed(seed)
    return build(recipe.architecture, len(recipe.outputs))


def taught(recipe: Recipe, splits: Splits, folder: Path, *, first: int = 2) -> StagedNetwork:
    network = untrained(recipe, first)
    with FitProgress("toy", EPOCHS, shown=False) as shown:
        imitate(recipe, splits, folder, network, workers=0, shown=shown)
    return network


def test_a_slice_is_seen_as_the_volume_network_sees_a_series_of_it(
    volume_network: ResNet, encoder: SliceEncoder
) -> None:
    # Rows from front to back, columns from the patient's right to his left.
    slices = torch.rand(2, 1, 64, 96)
    # Axes to the patient's right, front and head.
    series = slices[:, 0].flip(1, 2).transpose(1, 2)[..., None].expand(-1, -1, -1, 4)
    with torch.no_grad():
        maps = series.permute(0, 3, 1, 2)[:, None].expand(-1, 3, -1, -1, -1)
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"):
            maps = volume_network.get_submodule(name)(maps)
        third, fourth = maps[:, :, 1], volume_network.layer4(maps)[:, :, 1]
        seen = encoder(slices)
    assert seen.shape == (2, 1024 + 2048, 2, 3)
    expected = torch.cat([functional.avg_pool2d(third, 2), fourth], dim=1)
    torch.testing.assert_close(seen, expected.transpose(2, 3).flip(2, 3), rtol=1e-3, atol=1e-4)


def test_weights_of_another_network_are_refused(volume_network: ResNet) -> None:
    tensors = dict(volume_network.state_dict())
    del tensors["layer2.0.conv2.weight"]
    with pytest.raises(BadInput, match=r"(?s)another network.*layer2\.0\.conv2"):
        SliceEncoder(tensors)


def test_components_have_variance_one_and_the_largest_come_first() -> None:
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(6, 300, generator=generator) * torch.tensor([9, 5, 3, 2, 1, 0.5])[:, None]
    maps = torch.einsum("nkhw,kc->nchw", torch.randn(40, 6, 4, 4, generator=generator), mixing) + 7
    components = Components.of(maps)
    seen = components(maps).transpose(0, 1).flatten(1)[:6]
    torch.testing.assert_close(torch.cov(seen), torch.eye(6), rtol=0, atol=0.01)
    assert components.weights.mean() == pytest.approx(1)
    assert (components.weights[:6].diff() < 0).all()
    assert components.weights[:6].sum() > 0.5 * components.weights.sum()


def views_of(recipe: Recipe, splits: Splits) -> Views:
    return Views(recipe, [picture.plane for picture in splits.train])


def looked(views: Views, encoder: SliceEncoder, folder: Path, number: int = 1) -> Seen:
    with FitProgress("toy", EPOCHS, shown=False) as shown:
        return look(views, encoder, torch.device("cpu"), folder, {"number": number}, shown)


def counted(encoder: SliceEncoder, planes: list[int]) -> SliceEncoder:
    """The same encoder; the number of planes that it is shown goes into the list."""
    return lambda some: planes.append(len(some)) or encoder(some)  # type: ignore[return-value, func-returns-value]


def test_a_slice_is_shown_as_it_is_and_then_moved_in_other_ways(
    recipe: Recipe, splits: Splits
) -> None:
    views = views_of(recipe, splits)
    shown = np.stack([views.plane(view, 3) for view in range(VIEWS)])
    assert np.array_equal(shown[0], splits.train[3].plane)
    assert len(np.unique(shown, axis=0)) == VIEWS
    assert shown.min() >= 0
    assert shown.max() <= 1
    again = views_of(recipe, splits)
    assert all(np.array_equal(again.plane(view, 3), shown[view]) for view in reversed(range(VIEWS)))


def test_the_encoder_sees_every_view_once(
    recipe: Recipe, splits: Splits, encoder: SliceEncoder, tmp_path: Path
) -> None:
    views, planes = views_of(recipe, splits), list[int]()
    seen = looked(views, counted(encoder, planes), tmp_path)
    count = len(splits.train)
    assert planes == [count] * (1 + VIEWS)  # once more for the components
    clean = encoder(torch.from_numpy(np.stack([picture.plane for picture in splits.train])))
    expected = Components.of(clean)(encoder(torch.from_numpy(views.plane(5, 7)[None])))[0]
    torch.testing.assert_close(seen.maps[5][7].float(), expected, rtol=1e-2, atol=1e-2)
    assert torch.equal(seen.weights, Components.of(clean).weights)
    assert seen.seconds > 0
    again = looked(views, counted(encoder, planes), tmp_path)
    assert len(planes) == 1 + VIEWS
    assert all(torch.equal(*pair) for pair in zip(again.maps, seen.maps, strict=True))
    assert again.seconds == seen.seconds


def test_what_was_seen_is_kept_view_by_view_and_for_the_same_slices_alone(
    recipe: Recipe, splits: Splits, encoder: SliceEncoder, tmp_path: Path
) -> None:
    views, planes = views_of(recipe, splits), list[int]()
    whole = looked(views, encoder, tmp_path / "whole").maps

    def stopped(some: Tensor) -> Tensor:
        if len(planes) == 5:
            raise KeyboardInterrupt
        return counted(encoder, planes)(some)

    with pytest.raises(KeyboardInterrupt):
        looked(views, stopped, tmp_path / "parts")  # type: ignore[arg-type]
    (tmp_path / "parts" / "view2.pt").write_bytes(b"half")
    planes.clear()
    parts = looked(views, counted(encoder, planes), tmp_path / "parts").maps
    assert len(planes) == VIEWS - 3, "the damaged view and those that were missing"
    for found, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
    planes.clear()
    looked(views, counted(encoder, planes), tmp_path / "parts", number=2)
    assert len(planes) == 1 + VIEWS, "other slices"


class Numbered(Views):
    """Each view of each plane is of one gray of its own."""

    def plane(self, view: int, index: int) -> FloatArray:
        return np.full((1, SIDE, SIDE), (view * 12 + index) / 255, np.float32)


def test_of_every_view_that_which_was_seen_of_it_is_learned(recipe: Recipe, splits: Splits) -> None:
    views = Numbered(recipe, [picture.plane for picture in splits.train])
    grays = [[view * 12 + index for index in range(12)] for view in range(VIEWS)]
    maps = [torch.tensor(some).half()[:, None, None, None].expand(-1, 2, 1, 1) for some in grays]
    recipe = replace(recipe, augmentation=())
    learning = Imitation(recipe, views, untrained(recipe), workers=0)
    loader, order = learning._loader(Seen(maps, torch.ones(2), 0.0))
    pipeline, met = Pipeline(recipe.preprocessing), set[int]()
    for order.epoch in range(VIEWS):
        for images, wanted in loader:
            for image, number in zip(images, wanted[:, 0, 0, 0].int().tolist(), strict=True):
                met.add(number)
                plane = np.full((1, SIDE, SIDE), number / 255, np.float32)
                assert np.allclose(image.numpy(), pipeline.tensor(plane))
    assert met == set(range(12 * VIEWS)), "in so many epochs every view of every slice"


def test_what_the_encoder_sees_is_learned_and_the_head_is_left_alone(
    recipe: Recipe, splits: Splits, encoder: SliceEncoder, tmp_path: Path
) -> None:
    recipe, network = overridden(recipe, {"imitation_epochs": "80"}), untrained(recipe)
    views = views_of(recipe, splits)
    seen = looked(views, encoder, tmp_path / "views")
    learning = Imitation(recipe, views, network, workers=0)
    losses: list[float] = []
    with FitProgress("toy", 80, shown=False) as shown:
        step = learning._step
        learning._step = lambda *a: losses.append(step(*a)) or losses[-1]  # type: ignore[method-assign, func-returns-value]
        learning.run(seen, tmp_path / "checkpoint.pt", {}, shown)
    assert len(losses) == 80
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:20])
    before, after = untrained(recipe).state_dict(), network.state_dict()
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert "head" not in changed


@pytest.mark.usefixtures("published")
def test_an_interrupted_and_resumed_imitation_ends_as_one_that_was_not(
    recipe: Recipe, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = taught(recipe, splits, tmp_path / "whole").state_dict()
    begin = FitProgress.epoch_started

    def interrupted(shown: FitProgress, epoch: int, steps: int) -> None:
        if epoch == EPOCHS:
            raise KeyboardInterrupt
        begin(shown, epoch, steps)

    with monkeypatch.context() as patch:
        patch.setattr(FitProgress, "epoch_started", interrupted)
        with pytest.raises(KeyboardInterrupt):
            taught(recipe, splits, tmp_path / "parts")
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
    parts = taught(recipe, splits, tmp_path / "parts").state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-6, msg=name)
    kept = load_file(tmp_path / "parts" / "weights.safetensors")
    assert all(torch.equal(kept[name], value) for name, value in parts.items())
    left = {file.name for file in (tmp_path / "parts").iterdir()}
    assert left == {"weights.safetensors", "checkpoint.pt"}, "what was seen is no longer needed"


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("lost", ["weights.safetensors", "views/components.pt", "views/view0.pt"])
def test_stopped_after_the_last_epoch_it_only_finishes(
    recipe: Recipe, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """As if killed before the weights were written, or while what was seen was deleted."""
    with monkeypatch.context() as patch:
        patch.setattr(imitation.shutil, "rmtree", lambda *_, **__: None)
        whole = taught(recipe, splits, tmp_path).state_dict()
    (tmp_path / lost).unlink()
    monkeypatch.setattr(imitation, "look", None)
    again = taught(recipe, splits, tmp_path).state_dict()
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {"weights.safetensors", "checkpoint.pt"}


@pytest.mark.usefixtures("published")
def test_what_was_imitated_is_kept_for_the_same_slices_and_settings_alone(
    recipe: Recipe, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    begin = FitProgress.epoch_started

    def noted(shown: FitProgress, epoch: int, steps: int) -> None:
        begun.append(epoch)
        begin(shown, epoch, steps)

    monkeypatch.setattr(FitProgress, "epoch_started", noted)
    first = taught(recipe, splits, tmp_path).state_dict()
    begun.clear()
    again = taught(overridden(recipe, {"rate": "0.01"}), splits, tmp_path).state_dict()
    assert not begun
    assert all(torch.equal(again[name], value) for name, value in first.items())
    taught(recipe, replace(splits, train=pictures(12, 50)), tmp_path)
    assert begun == [1, 2, 3]
    taught(replace(recipe, seed=1), replace(splits, train=pictures(12, 50)), tmp_path)
    assert begun == [1, 2, 3, 1, 2, 3]
    begun.clear()
    taught(replace(recipe, seed=1), replace(splits, train=pictures(12, 50)), tmp_path, first=9)
    assert begun == [1, 2, 3], "it began with other weights"
    begun.clear()
    (tmp_path / "checkpoint.pt").write_bytes(b"half")
    taught(replace(recipe, seed=1), replace(splits, train=pictures(12, 50)), tmp_path)
    assert begun == [1, 2, 3]


@pytest.mark.usefixtures("published")
def test_a_run_begins_with_what_was_imitated(
    recipe: Recipe, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    components = Components.of
    monkeypatch.setattr(
        Components, "of", classmethod(lambda _, maps: seen.append(len(maps)) or components(maps))
    )
    # At a rate of nothing the run keeps the backbone with which it began.
    recipe = overridden(recipe, {"epochs": "1", "rate": "1e-12"})
    recipe = replace(recipe, ema=None, weight_decay=0.0)
    run = tmp_path / "toy"
    fit(recipe, splits, run, device="cpu", progress=False, workers=0)
    assert seen == [len(splits.train)]
    imitated, kept = (
        load_file(run / "imitation" / "weights.safetensors"),
        load_file(run / "weights.safetensors"),
    )
    trained = [key for key in kept if key.endswith(".weight") and not key.startswith("head")]
    for key in trained:
        torch.testing.assert_close(kept[key], imitated[key], rtol=0, atol=1e-6, msg=key)
    assert read_json(run, "config.json")["recipe"]["imitation_epochs"] == EPOCHS
    spent = json.loads((run / "timing.json").read_text())["seconds"]
    alone = torch.load(run / "imitation" / "checkpoint.pt", weights_only=True)["seconds"]
    assert spent >= alone > 0


def test_a_loss_that_is_no_number_ends_it(
    recipe: Recipe, splits: Splits, encoder: SliceEncoder, tmp_path: Path
) -> None:
    network = untrained(recipe)
    with torch.no_grad():
        next(network.parameters()).fill_(torch.nan)
    views = views_of(recipe, splits)
    seen = looked(views, encoder, tmp_path / "views")
    learning = Imitation(recipe, views, network, workers=0)
    with (
        FitProgress("toy", EPOCHS, shown=False) as shown,
        pytest.raises(TrainingError, match=r"became nan in epoch 1.*imitation_epochs=0"),
    ):
        learning.run(seen, tmp_path / "checkpoint.pt", {}, shown)


def test_films_have_nothing_to_imitate() -> None:
    with pytest.raises(BadInput, match="needs CT slices"):
        overridden(small("cxr_pneumonia"), {"imitation_epochs": "2"})
