"""MONAI's learning-rate finder on a recipe's phase: how fast the loss falls at each rate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from monai.optimizers.lr_finder import LearningRateFinder
from monai.utils.misc import set_determinism
from torch import Tensor, nn

from dicom_node.errors import BadInput
from dicom_node.score.networks import StagedNetwork
from training.batches import training_loader
from training.beginning import beginning
from training.data import Splits
from training.losses import SoftLoss, class_weights, hard_targets
from training.phases import OutputInferer, frozen_groups, optimizer_of, with_highest_rate
from training.recipes.base import Phase, Recipe
from training.runs import RATE_CURVE, write_json
from training.trial import chosen_device, explained_shortage

_LOWEST, _HIGHEST = 1e-7, 1.0
_FALLING = 0.2
"""Share of the steps at either end whose slope says nothing: noise first, divergence last."""


class _Logits(nn.Module):
    def __init__(self, network: StagedNetwork, frozen: list[nn.ModuleList]) -> None:
        super().__init__()
        self.network = network
        self._infer = OutputInferer(frozen)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) to logits (N, K)."""
        return self._infer(images, self.network).logits


def find_rate(
    recipe: Recipe, phase: Phase, network: StagedNetwork, splits: Splits, *, steps: int = 100
) -> dict[str, Any]:
    """Try rates from 1e-7 to 1 and leave the network as it was.

    Returns
    -------
    curve
        `rates` and smoothed `losses`, one per step, and `suggestion`: where the loss falls fastest.
    """
    set_determinism(recipe.seed)
    classes = [picture.target for picture in splits.train]
    targets = hard_targets(classes, recipe.function, len(recipe.labels))
    loader, _ = training_loader(recipe, splits.train, targets, workers=0)
    weights = class_weights(classes, len(recipe.labels))
    weights = weights if recipe.class_balanced else torch.ones_like(weights)
    device = next(network.parameters()).device
    model = _Logits(network, frozen_groups(network, phase))
    finder = LearningRateFinder(
        model,
        optimizer_of(recipe, with_highest_rate(phase, _LOWEST), network),
        SoftLoss(recipe.function, weights, recipe.label_smoothing).to(device),
        device=device,
        verbose=False,
    )
    finder.range_test(loader, start_lr=_LOWEST, end_lr=_HIGHEST, num_iter=steps)
    rates, losses = finder.get_lrs_and_losses()
    finite = [index for index, loss in enumerate(losses) if math.isfinite(loss)]
    rates, losses = [rates[i] for i in finite], [losses[i] for i in finite]
    if len(rates) < 4:
        raise BadInput(f"the learning-rate finder saw {len(rates)} finite losses; use more steps")
    return {"rates": rates, "losses": losses, "suggestion": _steepest(rates, losses)}


def _steepest(rates: list[float], losses: list[float]) -> float:
    margin = max(1, int(len(losses) * _FALLING / 2))
    slopes = np.gradient(np.asarray(losses))[margin:-margin]
    return float(rates[margin + int(slopes.argmin())]) if len(slopes) else float(rates[0])


def lr_find(
    recipe: Recipe,
    splits: Splits,
    run: Path,
    *,
    weights_file: Path | None = None,
    sha256: str | None = None,
    steps: int = 100,
    device: str = "auto",
) -> dict[str, Any]:
    """Find a rate for the recipe's first phase; writes `lr_find.json` and `lr_find.png`.

    Parameters
    ----------
    run
        Where to write; the run at which the recipe begins, if any, is beside it.
    weights_file, sha256
        See `training.pretrained.initial_file`.
    device
        See `training.trial.chosen_device`; one of several GPUs is enough.

    Raises
    ------
    BadInput
        The device or the weights cannot be used, or too few losses are finite.
    TrainingError
        Memory is short.
    """
    processor = chosen_device(device)
    network, _ = beginning(recipe, run.parent, weights_file=weights_file, sha256=sha256)
    with explained_shortage(recipe):
        network.to(processor).to(memory_format=torch.channels_last)
        curve = find_rate(recipe, recipe.phases[0], network, splits, steps=steps)
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / RATE_CURVE, curve)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(curve["rates"], curve["losses"])
    axes.axvline(curve["suggestion"], linestyle="--")
    axes.set(
        xscale="log",
        xlabel="Learning rate",
        ylabel="Smoothed loss",
        title=f"{recipe.name}: steepest at {curve['suggestion']:.1e}",
    )
    figure.savefig(run / "lr_find.png")
    return curve
