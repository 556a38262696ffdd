"""One phase's optimizer, learning rates by layer group, schedule and frozen layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.inferers.inferer import Inferer
from monai.optimizers.utils import generate_param_groups
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from dicom_node.errors import BadInput
from dicom_node.score.networks import Output, StagedNetwork
from training.batches import autocast
from training.recipes.base import Phase, Recipe


class OutputInferer(Inferer):
    """Forward pass to a float32 `Output`, in bfloat16 where the processor computes in it.

    Parameters
    ----------
    frozen
        Layer groups that stay as they are, statistics of batch normalisation included.
    """

    def __init__(self, frozen: list[nn.ModuleList]) -> None:
        super().__init__()
        self._frozen = frozen

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Output:
        """Run the network, which its trainer has just put into training mode."""
        for group in self._frozen:
            group.eval()
        images = inputs.contiguous(memory_format=torch.channels_last)
        with autocast(images.device):
            output = network(images)
        return Output(*(part.float() for part in output))


def frozen_groups(network: StagedNetwork, phase: Phase) -> list[nn.ModuleList]:
    """The layer groups that do not train in this phase; all others are set to train."""
    groups = network.layer_groups()
    if phase.trained_groups is not None and phase.trained_groups > len(groups):
        raise BadInput(
            f"trained_groups {phase.trained_groups}: the network has {len(groups)} layer groups"
        )
    frozen = groups[: len(groups) - (phase.trained_groups or len(groups))]
    for group in groups:
        group.requires_grad_(all(group is not other for other in frozen))
    return frozen


def group_rates(phase: Phase, groups: int) -> list[float]:
    """Learning rate of each trained layer group, geometric from the lowest to the highest."""
    return [float(rate) for rate in np.geomspace(phase.bounds[0], phase.bounds[-1], groups)]


def optimizer_of(recipe: Recipe, phase: Phase, network: StagedNetwork) -> torch.optim.Optimizer:
    """The phase's optimizer with one parameter group per trained layer group."""
    trained = phase.trained_groups or len(network.layer_groups())
    rates = group_rates(phase, trained)
    parameters = generate_param_groups(
        network,
        layer_matches=[_selector(index - trained) for index in range(trained)],
        match_types=["select"] * trained,
        lr_values=rates,
        include_others=False,
    )
    decay = recipe.weight_decay
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rates[-1], weight_decay=decay)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rates[-1], weight_decay=decay)
    return torch.optim.SGD(parameters, lr=rates[-1], weight_decay=decay, momentum=0.9)


def _selector(index: int) -> Callable[[StagedNetwork], nn.Module]:
    return lambda network: network.layer_groups()[index]


def schedule_of(phase: Phase, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """What changes the learning rate after every step; `steps` of them make an epoch."""
    total = steps * phase.epochs
    highest = [float(group["lr"]) for group in optimizer.param_groups]
    if phase.schedule == "one_cycle":
        return OneCycleLR(optimizer, max_lr=highest, total_steps=total)
    if phase.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=total)
    if phase.schedule == "time_decay":
        decays = [rate / phase.epochs for rate in highest]
        return LambdaLR(optimizer, [_time_decay(decay) for decay in decays])
    return LambdaLR(optimizer, lambda step: 1.0)


def _time_decay(decay: float) -> Callable[[int], float]:
    return lambda step: 1 / (1 + decay * step)


def with_highest_rate(phase: Phase, rate: float) -> Phase:
    """The phase with its highest rate lowered to `rate`, the spread kept."""
    factor = min(1.0, rate / phase.bounds[-1])
    return replace(phase, rates=tuple(bound * factor for bound in phase.bounds), find_rate=False)
