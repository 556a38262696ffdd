"""Where a training runs, and its largest step, tried before hours are spent on the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from dicom_node.errors import BadInput
from dicom_node.score.networks import StagedNetwork
from training.errors import TrainingError
from training.guidance import GuidedLoss, Taught
from training.losses import SoftLoss
from training.phases import OutputInferer, frozen_groups
from training.recipes.base import Recipe

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "signal: killed")
_MOMENTS = {"adam": 2, "adamw": 2, "sgd": 1}
"""Numbers that an optimizer keeps for each weight."""


def chosen_device(name: str) -> torch.device:
    """The processor of that name; `auto` is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BadInput(f"device {name!r} cannot be used: {error}") from error
    return device


def all_gpus(device: torch.device) -> bool:
    """Whether each of several GPUs takes a part of the batch on that device."""
    return device.type == "cuda" and device.index is None and torch.cuda.device_count() > 1


def try_largest_step(recipe: Recipe, network: StagedNetwork, pictures: int) -> None:
    """Pass a full batch forward and backward in the phase that trains most layers.

    Parameters
    ----------
    network
        On its device; it is of no use afterwards, as gradients and statistics are left in it.
    pictures
        How many are trained on: a batch has no more.

    Raises
    ------
    TrainingError
        Memory is short.
    """
    groups = len(network.layer_groups())
    trained = [phase.trained_groups or groups for phase in recipe.phases]
    number = trained.index(max(trained))
    where = f" in phase {number + 1} of {len(trained)}" if len(trained) > 1 else ""
    frozen = frozen_groups(network, recipe.phases[number])
    with explained_shortage(recipe, where):
        # Held meanwhile: what else is there in training, as large as the weights.
        copies = _MOMENTS[recipe.optimizer] + recipe.teachers + (recipe.ema is not None)
        held = [torch.empty_like(value) for value in network.parameters() for _ in range(copies)]
        _step(recipe, network, frozen, min(recipe.batch_size, pictures))
        del held


def _step(recipe: Recipe, network: StagedNetwork, frozen: list[nn.ModuleList], count: int) -> None:
    device, shape = next(network.parameters()).device, recipe.preprocessing
    images = torch.zeros(count, 3, shape.rows, shape.columns, device=device)
    lungs = torch.ones_like(images[:, :1]) if recipe.guided else None
    targets = torch.zeros(count, len(recipe.outputs), device=device)
    labels = SoftLoss(recipe.function, torch.ones(len(recipe.labels)), recipe.label_smoothing)
    loss = GuidedLoss(labels, recipe.lung_attention).to(device)
    shared: nn.Module = nn.DataParallel(network) if all_gpus(device) else network
    output = OutputInferer(frozen)(images, shared.train())
    loss(output, Taught(targets, lungs)).backward()


@contextmanager
def explained_shortage(recipe: Recipe, where: str = "") -> Iterator[None]:
    """Say what to do when memory is short, instead of what the allocator did.

    Parameters
    ----------
    where
        When that was, with a space before it.

    Raises
    ------
    TrainingError
        Instead of the allocator's error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if "shared memory" in str(error):
            raise TrainingError(
                "the processes that prepare batches are out of shared memory: use --workers 0, or "
                "give the container a larger /dev/shm (--shm-size)"
            ) from error
        short = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not short and not any(sign in str(error).lower() for sign in _OUT_OF_MEMORY):
            raise
        raise TrainingError(
            f"out of memory{where} at batch size {recipe.batch_size} and side "
            f"{recipe.preprocessing.rows}: try --set batch_size={max(2, recipe.batch_size // 2)}, "
            "and lower the learning rate as much"
        ) from error
