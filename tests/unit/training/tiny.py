"""Model folders that are made in a second, and labelled pictures for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from dicom_node.score.networks import build
from dicom_node.score.transforms import Pipeline
from training.changes import overridden
from training.data import Item, Picture, Splits
from training.export import export
from training.recipes import RECIPES
from training.recipes.base import Recipe
from training.recipes.common import THREE_CHANNELS, radiograph

SIDE = 32


def drawing(brightness: float, seed: int) -> NDArray[np.float32]:
    """A display image (rows, columns): noise, with a blob that grows with the brightness."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : 48 * 1j, -1 : 1 : 40 * 1j]
    blob = np.exp(-(x**2 + y**2) / (0.05 + 0.3 * brightness))
    noise = generator.uniform(0, 0.3, blob.shape)
    return np.asarray(255 * np.clip(0.7 * blob + noise, 0, 1), np.float32)


@dataclass(frozen=True)
class Drawn:
    """A source of drawings: `brightness` holds that of each item's path.

    `striped` names those that look like nothing a model was made from.
    """

    items: tuple[Item, ...]
    brightness: Mapping[str, float]
    name: str = "drawn"
    problems: tuple[str, ...] = ()
    striped: frozenset[str] = frozenset()
    reads: list[str] = field(default_factory=list)

    def read(self, item: Item) -> NDArray[np.float32]:
        """The drawing of an item."""
        self.reads.append(item.path)
        picture = drawing(self.brightness[item.path], sum(item.path.encode()))
        if item.path in self.striped:
            picture[::6], picture[3::6] = 255, 0
        return picture


def drawn(labels: Sequence[str], count: int, *, split: str = "test", start: int = 0) -> Drawn:
    """`count` drawings, labels in turn and brighter from label to label; four of a group."""
    items, brightness = [], {}
    for number in range(start, start + count):
        place = number % len(labels)
        path = f"{split or 'all'}/{number}.png"
        rows = {"subtype": ("virus", "bacteria")[number // 2 % 2]}
        items.append(Item(path, labels[place], split, f"{split}-g{number // 4}", rows))
        wobble = np.random.default_rng(number).uniform(-0.3, 0.3)
        brightness[path] = float(np.clip((place + 0.5 + wobble) / len(labels), 0, 1))
    return Drawn(tuple(items), brightness)


def joined(*sources: Drawn) -> Drawn:
    """One source of all their items."""
    items = tuple(item for source in sources for item in source.items)
    brightness = {path: value for one in sources for path, value in one.brightness.items()}
    return Drawn(items, brightness)


def toy() -> Recipe:
    """The network that trains from scratch, on pictures of `SIDE`, four at a time."""
    return replace(
        RECIPES["cnn_scratch_pneumonia_cxr"],
        name="toy",
        preprocessing=radiograph(SIDE, (THREE_CHANNELS,), clipped=0.0),
        batch_size=4,
    )


def small(base: str) -> Recipe:
    """A shipped recipe with the network that trains from scratch, at a small side."""
    changes = {"architecture": "FiveBlockCNN", "weights": "none", "side": str(SIDE)}
    unguided = {"lung_attention": "0", "lung_backgrounds": "0", "imitation_epochs": "0"}
    return overridden(RECIPES[base], changes | unguided)


def tiny_model(folder: Path, base: str = "cxr_pneumonia", *, seed: int = 4, **changes: Any) -> Path:
    """A model folder with random weights, calibrated on drawings; `changes` are of the recipe."""
    recipe = replace(small(base), name=folder.name, **changes)
    pipeline = Pipeline(recipe.preprocessing)

    def pictures(split: str, start: int) -> list[Picture]:
        source = drawn(recipe.labels, 18, split=split, start=start)
        return [
            Picture(item, pipeline.plane(source.read(item)), recipe.labels.index(item.label))
            for item in source.items
        ]

    run = folder.parent / f"run-{folder.name}"
    run.mkdir(parents=True)
    torch.manual_seed(seed)
    network = build(recipe.architecture, len(recipe.outputs))
    save_file(network.state_dict(), run / "weights.safetensors")
    export(recipe, Splits(pictures("train", 1000), pictures("validation", 2000), []), run, folder)
    return folder
