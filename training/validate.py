"""Figures of one epoch on the validation pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from dicom_node.errors import BadInput
from training.losses import SoftLoss, called, hard_targets, probabilities
from training.recipes.base import Recipe


def validation_figures(
    recipe: Recipe, logits: NDArray[np.float64], targets: Sequence[int]
) -> dict[str, float]:
    """Loss (plain cross-entropy), accuracy and AUC of logits (N, K) and label indices (N,)."""
    scores = torch.from_numpy(logits)
    labels = len(recipe.labels)
    wanted = hard_targets(targets, recipe.function, labels).double()
    loss = SoftLoss(recipe.function, torch.ones(labels, dtype=torch.float64), 0.0)(scores, wanted)
    outputs = probabilities(scores, recipe.function).numpy()
    right = called(outputs, recipe.function) == np.asarray(targets)
    return {
        "validation_loss": float(loss),
        "validation_accuracy": float(right.mean()),
        "validation_auc": area_under_curve(recipe, outputs, targets),
    }


def area_under_curve(recipe: Recipe, outputs: NDArray[np.float64], targets: Sequence[int]) -> float:
    """ROC AUC; for more than two labels the mean of each against the rest."""
    missing = set(range(len(recipe.labels))) - set(targets)
    if missing:
        names = ", ".join(recipe.labels[index] for index in sorted(missing))
        raise BadInput(f"the validation pictures have no {names}: enlarge the validation share")
    if len(recipe.labels) == 2:
        return float(roc_auc_score(targets, outputs[:, -1]))
    return float(roc_auc_score(targets, outputs, multi_class="ovr", average="macro"))
