"""A model soup: the mean of the weights of several trainings from the same initial weights.

Trainings that begin at the same pre-trained weights and stay near them end in one basin, where the
mean of the weights does what the mean of the outputs would, at the cost of one network, and fails
less on pictures from elsewhere (Wortsman et al. 2022, arXiv:2203.05482).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training import runs
from training.batches import mixed_seed
from training.recipes.base import Recipe


def member_folders(recipe: Recipe, run: Path) -> list[Path]:
    """Where the members of a run are trained; the run itself where there is but one."""
    if recipe.members == 1:
        return [run]
    return [run / f"member{number}" for number in range(1, recipe.members + 1)]


def member_seed(recipe: Recipe, number: int) -> int:
    """Seed of a member, counted from 0; the first one's is the recipe's."""
    return recipe.seed if number == 0 else mixed_seed(recipe.seed, number)


def stir(members: Sequence[Path], run: Path) -> None:
    """Write mean weights and joined history of finished trainings into `run`.

    Running statistics of batch normalisation are averaged, too; counts are the first member's.
    """
    loaded = [load_file(member / runs.WEIGHTS) for member in members]
    save_file(
        {name: _mean([weights[name] for weights in loaded]) for name in loaded[0]},
        run / runs.WEIGHTS,
    )
    runs.write_json(run / runs.HISTORY, _joined(members))


def _mean(values: Sequence[Tensor]) -> Tensor:
    if not values[0].is_floating_point():
        return values[0]
    return torch.stack(list(values)).mean(dim=0)


def _joined(members: Sequence[Path]) -> list[dict[str, Any]]:
    history: list[dict[str, Any]] = []
    for number, member in enumerate(members, start=1):
        for entry in runs.read_json(member, runs.HISTORY):
            history.append({**entry, "epoch": len(history) + 1, "member": number})
    return history
