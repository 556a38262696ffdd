"""What a network is taught to say of each training picture: its label, and what teachers say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dicom_node.errors import BadInput
from dicom_node.score.networks import build
from dicom_node.score.transforms import Pipeline
from training.batches import predict_logits
from training.data import Picture
from training.losses import hard_targets, probabilities
from training.pretrained import load_run
from training.recipes.base import Recipe
from training.runs import WEIGHTS, recipe_of


def training_targets(
    recipe: Recipe, pictures: Sequence[Picture], runs: Path, device: torch.device
) -> Tensor:
    """Probabilities (N, K): the labels, mixed with the mean of the teachers in `runs`."""
    labels = hard_targets([p.target for p in pictures], recipe.function, len(recipe.labels))
    if not recipe.teachers:
        return labels
    said = [_said(recipe, runs / name, pictures, device) for name in recipe.teachers]
    weight = recipe.teacher_weight
    return (1 - weight) * labels + weight * torch.stack(said).mean(dim=0)


def _said(recipe: Recipe, run: Path, pictures: Sequence[Picture], device: torch.device) -> Tensor:
    """The probabilities (N, K) that a run gives clean pictures."""
    teacher = recipe_of(run)
    own, other = recipe.preprocessing, teacher.preprocessing
    if teacher.outputs != recipe.outputs or own.display != other.display:
        raise BadInput(
            f"teacher {run.name} has other outputs or another picture size than {recipe.name}: "
            "both must prepare pictures alike up to the tensor stage"
        )
    network = build(teacher.architecture, len(teacher.outputs)).to(device)
    load_run(network, run / WEIGHTS)
    logits = predict_logits(network, pictures, Pipeline(other), recipe.batch_size)
    return probabilities(torch.from_numpy(logits).float(), recipe.function)
