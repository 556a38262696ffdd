"""Several trainings teach one network, which then does at the cost of one what their mean would do.

Each teacher learns from all training pictures but one fold. What the teachers say, on average, of
each picture *as it was varied for the pupil* is a part of what the pupil learns (Hinton et al.
2015, arXiv:1503.02531; Beyer et al. 2022, arXiv:2106.05237).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from training.batches import mixed_seed
from training.losses import probabilities
from training.phases import OutputInferer
from training.recipes.base import Function, Recipe

_FIRST_SEED = 1000
"""Away from the numbers of a soup's members, so that no teacher is trained as one of them."""


def teacher_folders(recipe: Recipe, run: Path) -> list[Path]:
    """Where the teachers of a run are trained."""
    return [run / f"teacher{number}" for number in range(1, recipe.teachers + 1)]


def teacher_recipe(recipe: Recipe, number: int) -> Recipe:
    """How a teacher, counted from 0, is trained: alone, on pictures that are not mixed."""
    seed = mixed_seed(recipe.seed, _FIRST_SEED + number)
    return replace(recipe, seed=seed, members=1, teachers=0, teacher_weight=1.0, mixup=0.0)


class Teachers:
    """The mean of what several networks say.

    Parameters
    ----------
    networks
        Of one architecture's outputs (N, K), all on one device; they are put into eval mode.
    function
        That makes probabilities of their logits.
    weight
        Their share in what is learned, in (0, 1].
    """

    def __init__(self, networks: Sequence[nn.Module], function: Function, weight: float) -> None:
        self._networks = [
            network.eval().requires_grad_(requires_grad=False) for network in networks
        ]
        self._function = function
        self._weight = weight
        self._infer = OutputInferer([])

    def taught(self, images: Tensor, targets: Tensor) -> Tensor:
        """Targets (N, K), moved towards what is said of images (N, 3, H, W)."""
        with torch.no_grad():
            said = [
                probabilities(self._infer(images, network).logits, self._function)
                for network in self._networks
            ]
        return (1 - self._weight) * targets + self._weight * torch.stack(said).mean(dim=0)
