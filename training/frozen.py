"""A frozen ImageNet backbone, for features that are taken once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from dicom_node.errors import BadInput
from dicom_node.score.networks import StagedNetwork
from dicom_node.score.transforms import FloatArray, Pipeline
from training.pretrained import initial_network, with_fallback
from training.recipes.base import Recipe


def frozen_network(recipe: Recipe) -> tuple[StagedNetwork, Recipe]:
    """The recipe's ImageNet network, or where its weights cannot be had the fallback's.

    Returns
    -------
    network, recipe
        In evaluation mode, and the recipe whose architecture and preprocessing it has.
    """
    try:
        return initial_network(recipe).eval(), recipe
    except BadInput:
        recipe = with_fallback(recipe)
        return initial_network(recipe).eval(), recipe


def frozen_maps(
    network: StagedNetwork, pipeline: Pipeline, pictures: Iterable[FloatArray]
) -> Tensor:
    """Last feature maps (N, C, h, w) of display pictures (r, c), which may differ in size."""
    parts = []
    with torch.inference_mode():
        for picture in pictures:
            tensor = pipeline.tensor(pipeline.plane(picture))
            maps, _ = network.encode(torch.from_numpy(tensor[np.newaxis]))
            parts.append(maps)
    # A copy: tensors of the inference mode cannot be trained on.
    return torch.cat(parts).clone()
