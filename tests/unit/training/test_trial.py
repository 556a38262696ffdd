"""A shortage of memory is found before the first epoch, and looking for it changes no result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dicom_node.errors import BadInput
from dicom_node.score.networks import Output, StagedNetwork, build
from training.data import Item, Picture, Splits
from training.errors import TrainingError
from training.fit import fit
from training.guidance import GuidedLoss, Taught
from training.lr_find import lr_find
from training.progress import FitProgress
from training.recipes.base import Phase, Recipe
from training.trial import chosen_device, try_largest_step

from .tiny import SIDE, toy

SHORT: dict[str, Callable[[], Exception]] = {
    "GPU": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
    "CPU": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 TB"),
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def recipe() -> Recipe:
    return replace(
        toy(),
        phases=(
            Phase(epochs=1, rates=1e-2, trained_groups=1),
            Phase(epochs=1, rates=1e-3),
            Phase(epochs=1, rates=1e-3, trained_groups=2),
        ),
        ema=0.9,
    )


@pytest.fixture
def splits() -> Splits:
    made = []
    for number in range(16):
        plane = np.random.default_rng(number).uniform(0, 0.5, (1, SIDE, SIDE)).astype(np.float32)
        plane[:, 8:24, 8:24] += 0.4 * (number % 2)
        label = ("normal", "pneumonia")[number % 2]
        made.append(Picture(Item(f"{number}.png", label, "", "", {}), plane, number % 2))
    return Splits(made[:10], made[10:], [])


def trained(recipe: Recipe, splits: Splits, run: Path, **options: Any) -> dict[str, torch.Tensor]:
    fit(recipe, splits, run, device="cpu", progress=False, workers=0, **options)
    return dict(load_file(run / "weights.safetensors"))


def fails_when_all_train(monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception]) -> None:
    forward = StagedNetwork.forward

    def short(self: StagedNetwork, images: torch.Tensor) -> Output:
        if self.training and all(value.requires_grad for value in self.parameters()):
            raise error()
        return forward(self, images)

    monkeypatch.setattr(StagedNetwork, "forward", short)


@pytest.mark.parametrize("where", SHORT)
@pytest.mark.parametrize("resume", [False, True], ids=["first time", "on resume"])
def test_a_shortage_in_a_later_phase_is_told_before_any_epoch_begins(
    recipe: Recipe,
    splits: Splits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    resume: bool,
) -> None:
    fails_when_all_train(monkeypatch, SHORT[where])
    monkeypatch.setattr(FitProgress, "epoch_started", lambda *_: pytest.fail("an epoch began"))
    words = "out of memory in phase 2 of 3 at batch size 4 and side 32: try --set batch_size=2"
    with pytest.raises(TrainingError, match=words):
        trained(recipe, splits, tmp_path / "toy", resume=resume)
    assert not (tmp_path / "toy").exists()


def test_a_shortage_is_told_before_lungs_are_looked_for(
    recipe: Recipe, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_when_all_train(monkeypatch, SHORT["GPU"])
    monkeypatch.setattr("training.fit.lungs_on", lambda *_, **__: pytest.fail("looked for lungs"))
    with pytest.raises(TrainingError, match="out of memory"):
        trained(replace(recipe, lung_attention=0.5), splits, tmp_path / "toy")


@pytest.mark.parametrize("changes", [{}, {"members": 2, "mixup": 0.2}], ids=["alone", "soup"])
def test_weights_are_the_same_with_and_without_the_trial(
    recipe: Recipe,
    splits: Splits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    recipe = replace(recipe, **changes)
    tried = trained(recipe, splits, tmp_path / "tried")
    monkeypatch.setattr("training.fit.try_largest_step", lambda *_: None)
    untried = trained(recipe, splits, tmp_path / "untried")
    assert tried.keys() == untried.keys()
    assert all(torch.equal(tried[name], untried[name]) for name in tried)


@pytest.mark.parametrize(("pictures", "batch"), [(3, 3), (100, 4)])
def test_the_batch_is_as_large_as_a_training_has_it(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, pictures: int, batch: int
) -> None:
    seen: list[tuple[tuple[int, ...], tuple[int, ...], bool]] = []
    forward = GuidedLoss.forward

    def watched(self: GuidedLoss, output: Output, taught: Taught) -> torch.Tensor:
        assert taught.lungs is not None
        shapes = tuple(taught.targets.shape), tuple(taught.lungs.shape)
        seen.append((*shapes, output.logits.requires_grad))
        return forward(self, output, taught)

    monkeypatch.setattr(GuidedLoss, "forward", watched)
    network = build(recipe.architecture, 1)
    try_largest_step(replace(recipe, lung_attention=0.5), network, pictures)
    assert seen == [((batch, 1), (batch, 1, SIDE, SIDE), True)]
    # Passed back to the first layer, which trains in the second phase alone.
    assert all(value.grad is not None for value in network.layer_groups()[0].parameters())


def test_what_is_no_shortage_is_not_explained_as_one(
    recipe: Recipe, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_when_all_train(monkeypatch, lambda: RuntimeError("an odd shape"))
    with pytest.raises(RuntimeError, match="an odd shape"):
        trained(recipe, splits, tmp_path / "toy")


def test_the_finder_says_that_memory_is_short(
    recipe: Recipe, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_when_all_train(monkeypatch, SHORT["GPU"])
    recipe = replace(recipe, phases=recipe.phases[1:2])
    with pytest.raises(TrainingError, match="out of memory at batch size 4 and side 32"):
        lr_find(recipe, splits, tmp_path / "run", steps=10, device="cpu")


def test_a_device_that_is_not_there_is_refused() -> None:
    assert chosen_device("cpu") == torch.device("cpu")
    with pytest.raises(BadInput, match="device 'abacus' cannot be used"):
        chosen_device("abacus")
