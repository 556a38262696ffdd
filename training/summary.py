"""What a finished run shows of its validation pictures, with its best weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dicom_node.score.networks import StagedNetwork
from dicom_node.score.transforms import FloatArray, Pipeline
from training.batches import outputs_of
from training.data import Picture
from training.losses import probabilities
from training.pretrained import load_run
from training.recipes.base import Recipe
from training.run_evidence import write_evidence
from training.runs import HISTORY, WEIGHTS, read_json

EVIDENCE = "validation"
"""Folder of figures, curves and pictures in the run folder."""
_THRESHOLD = 0.5
"""Scores are not calibrated yet."""


def summarise(
    recipe: Recipe, pictures: Sequence[Picture], run: Path, network: StagedNetwork
) -> None:
    """Write figures, curves and grids into `run/validation`; loads the best weights."""
    load_run(network, run / WEIGHTS)
    pipeline = Pipeline(recipe.preprocessing)
    outputs = list(outputs_of(network, pictures, pipeline, recipe.batch_size))
    logits = torch.cat([output.logits.cpu() for output in outputs])
    place = recipe.outputs.index(recipe.positive)
    activations = torch.cat([output.activations[:, place].cpu() for output in outputs])
    write_evidence(
        run / EVIDENCE,
        np.array([picture.target for picture in pictures], dtype=np.int64),
        probabilities(logits.double(), recipe.function).numpy(),
        labels=recipe.labels,
        positive=recipe.positive,
        threshold=_THRESHOLD,
        history=read_json(run, HISTORY),
        pictures=pictures,
        maps=_heat(activations.numpy()),
        seed=recipe.seed,
    )


def _heat(activations: FloatArray) -> FloatArray:
    """Grad-CAM's maps (N, h, w) in [0, 1], each by its own greatest value."""
    positive = np.maximum(activations, 0)
    greatest = positive.max(axis=(1, 2), keepdims=True)
    heat = np.divide(positive, greatest, out=np.zeros_like(positive), where=greatest > 0)
    return np.asarray(heat, dtype=np.float32)
