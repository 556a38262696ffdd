"""From pictures to batches, in an order and with variations that only seed and epoch decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from dicom_node.score.networks import Output
from dicom_node.score.transforms import FloatArray, Pipeline
from training.augment import augmenter, vary, vary_mask
from training.data import Picture
from training.guidance import before, random_background
from training.lung_field import Mask
from training.recipes.base import Recipe

_Draw = tuple[int, int]
"""(epoch, index)."""


def mixed_seed(*parts: int) -> int:
    """One 32-bit seed out of several whole numbers, e.g. seed, epoch and index."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


class VariedPictures(Dataset[dict[str, Any]]):
    """Pictures varied by (seed, epoch, index) alone, so that neither workers nor restarts matter.

    Parameters
    ----------
    recipe
        Its preprocessing, augmentation and seed.
    pictures
        N of them.
    targets
        Probabilities (N, K).
    lungs
        Masks (rows, columns) of the pictures, for a recipe that is guided by them.
    """

    def __init__(
        self,
        recipe: Recipe,
        pictures: Sequence[Picture],
        targets: Tensor,
        lungs: Sequence[Mask] | None = None,
    ) -> None:
        self._pictures = pictures
        self._targets = targets
        self._lungs = lungs
        self._backgrounds = recipe.lung_backgrounds
        self._seed = recipe.seed
        self._pipeline = Pipeline(recipe.preprocessing)
        side = recipe.preprocessing.rows
        self._augment = augmenter(recipe.augmentation, recipe.seed, side)

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, draw: _Draw) -> dict[str, Any]:
        """Give `image` (3, rows, columns), `label` (K,), `index`; with lungs `lungs` (1, r, c)."""
        epoch, index = draw
        seed = mixed_seed(self._seed, epoch, index)
        plane, mask = self._pictures[index].plane, self._lungs[index] if self._lungs else None
        if mask is not None:
            plane = self._before_another(index, mask, np.random.default_rng(seed))
        image = self._pipeline.tensor(vary(self._augment, plane, seed))
        made = {"image": image, "label": self._targets[index], "index": index}
        if mask is not None:
            made["lungs"] = vary_mask(self._augment, mask, seed)
        return made

    def _before_another(self, index: int, mask: Mask, generator: np.random.Generator) -> FloatArray:
        plane, count = self._pictures[index].plane, len(self._pictures)
        if generator.uniform() >= self._backgrounds:
            return plane
        other = self._pictures[(index + int(generator.integers(1, count))) % count].plane
        return before(random_background(plane, other, generator), plane, mask)


class EpochOrder(Sampler[_Draw]):
    """All pictures in a new order each epoch; `epoch` is set from outside."""

    def __init__(self, pictures: int, seed: int) -> None:
        self._pictures = pictures
        self._seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self._pictures

    def __iter__(self) -> Iterator[_Draw]:
        generator = np.random.default_rng([self._seed, self.epoch])
        for index in generator.permutation(self._pictures):
            yield self.epoch, int(index)


def training_loader(
    recipe: Recipe,
    pictures: Sequence[Picture],
    targets: Tensor,
    *,
    workers: int,
    lungs: Sequence[Mask] | None = None,
) -> tuple[DataLoader[dict[str, Any]], EpochOrder]:
    """Batches of varied pictures; a last batch that is not full is left out, if it is not all."""
    order = EpochOrder(len(pictures), recipe.seed)
    loader = DataLoader(
        VariedPictures(recipe, pictures, targets, lungs),
        batch_size=recipe.batch_size,
        sampler=order,
        num_workers=workers,
        # Its own, so that the order of draws elsewhere does not depend on when a pass begins.
        generator=torch.Generator().manual_seed(recipe.seed),
        drop_last=len(pictures) > recipe.batch_size,
    )
    return loader, order


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the processor computes in it, else a context that does nothing."""
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported()
    else:
        able = device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())
    return torch.autocast(device.type, torch.bfloat16, enabled=able)


def outputs_of(
    network: nn.Module, pictures: Sequence[Picture], pipeline: Pipeline, batch_size: int = 32
) -> Iterator[Output]:
    """Outputs for clean pictures, batch by batch; leaves the network in eval mode."""
    network.eval()
    device = next(network.parameters()).device
    for start in range(0, len(pictures), batch_size):
        some = pictures[start : start + batch_size]
        images = torch.from_numpy(np.stack([pipeline.tensor(p.plane) for p in some]))
        with torch.inference_mode():
            yield network(images.to(device).contiguous(memory_format=torch.channels_last))


def predict_logits(
    network: nn.Module, pictures: Sequence[Picture], pipeline: Pipeline, batch_size: int = 32
) -> NDArray[np.float64]:
    """Logits (N, K) of clean pictures, in float32 arithmetic."""
    parts = outputs_of(network, pictures, pipeline, batch_size)
    return np.concatenate([output.logits.double().cpu().numpy() for output in parts])
