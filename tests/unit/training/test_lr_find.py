"""The finder leaves the network as it was and suggests a rate at which the loss falls."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dicom_node.errors import BadInput
from dicom_node.score.networks import build
from training.data import Item, Picture, Splits
from training.fit import fit
from training.lr_find import find_rate, lr_find
from training.recipes import RECIPES
from training.recipes.base import Phase, Recipe
from training.recipes.common import THREE_CHANNELS, radiograph

SIDE = 32


def toy() -> tuple[Recipe, Splits]:
    torch.set_num_threads(1)
    recipe = replace(
        RECIPES["cnn_scratch_pneumonia_cxr"],
        name="toy",
        preprocessing=radiograph(SIDE, (THREE_CHANNELS,), clipped=0.0),
        batch_size=4,
    )
    pictures = []
    for number in range(12):
        plane = np.random.default_rng(number).uniform(0, 0.4, (1, SIDE, SIDE)).astype(np.float32)
        plane[:, 8:24, 8:24] += 0.5 * (number % 2)
        label = recipe.labels[number % 2]
        pictures.append(Picture(Item(f"{number}.png", label, "", "", {}), plane, number % 2))
    return recipe, Splits(pictures[:8], pictures[8:], [])


def test_the_network_is_left_as_it_was() -> None:
    recipe, splits = toy()
    network = build(recipe.architecture, 1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    curve = find_rate(recipe, recipe.phases[0], network, splits, steps=12)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert len(curve["rates"]) == len(curve["losses"])
    assert min(curve["rates"]) <= curve["suggestion"] <= max(curve["rates"])


def test_the_curve_is_kept_as_numbers_and_as_a_picture(tmp_path: Path) -> None:
    recipe, splits = toy()
    curve = lr_find(recipe, splits, tmp_path / "run", steps=10, device="cpu")
    assert json.loads((tmp_path / "run" / "lr_find.json").read_text()) == curve
    assert (tmp_path / "run" / "lr_find.png").read_bytes().startswith(b"\x89PNG")


def test_the_rate_is_looked_for_where_the_training_begins(tmp_path: Path) -> None:
    recipe, splits = toy()
    alone = lr_find(recipe, splits, tmp_path / "alone", steps=10, device="cpu")
    fit(recipe, splits, tmp_path / "first", device="cpu", progress=False, workers=0)
    begun = replace(recipe, init_from="first")
    assert (
        lr_find(begun, splits, tmp_path / "run", steps=10, device="cpu")["losses"]
        != (alone["losses"])
    )
    gone = replace(recipe, init_from="second")
    assert lr_find(gone, splits, tmp_path / "run", steps=10, device="cpu") == alone


def test_a_device_that_is_not_there_is_refused_first(tmp_path: Path) -> None:
    recipe, splits = toy()
    with pytest.raises(BadInput, match="device 'abacus' cannot be used"):
        lr_find(recipe, splits, tmp_path / "run", device="abacus")
    assert not (tmp_path / "run").exists()


def test_a_phase_that_asks_for_it_trains_at_the_found_rate(tmp_path: Path) -> None:
    recipe, splits = toy()
    phase = Phase(epochs=1, rates=0.5, find_rate=True)
    fit(
        replace(recipe, phases=(phase,)),
        splits,
        tmp_path / "run",
        device="cpu",
        progress=False,
        workers=0,
    )
    found = json.loads((tmp_path / "run" / "lr_find.json").read_text())["suggestion"]
    (epoch,) = json.loads((tmp_path / "run" / "history.json").read_text())
    np.testing.assert_allclose(epoch["learning_rate"], min(0.5, found))
