"""Ways in which slices are shown to an encoder, and what it sees of each, found out once.

A larger network takes as long to look at a slice as a small one takes to learn from it. So each
slice is shown to it in a few ways only, and what it saw is kept until the small one has learned it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from dicom_node.score.transforms import FloatArray
from training.augment import augmenter, vary
from training.batches import mixed_seed
from training.checkpoint import DAMAGED, content_of, save_content
from training.progress import FitProgress
from training.recipes.augmentations import IMITATED
from training.recipes.base import Recipe

Encoder = Callable[[Tensor], Tensor]
"""Planes (N, 1, H, W) in [0, 1] to maps (N, C, h, w), without gradients."""

VIEWS = 16
"""Of each slice: as it is, and moved and scaled in fifteen ways."""
COMPONENTS = 256
_LOOKED_AT = 1000
"""Pictures of which the components are taken; their maps take 0.6 GB at a side of 224."""
_BATCH = 32
_SMALLEST = 1e-3
_COMPONENTS_FILE = "components.pt"


@dataclass(frozen=True, slots=True)
class Components:
    """Principal components of an encoder's maps, each of variance 1 on the training pictures.

    Attributes
    ----------
    mean, scale
        Of each of the C channels, (C, 1, 1).
    axes
        (C, K).
    weights
        (K,) with mean 1, the roots of the components' variances: how much each counts.
    """

    mean: Tensor
    scale: Tensor
    axes: Tensor
    weights: Tensor

    @classmethod
    def of(cls, maps: Tensor) -> Components:
        """The first 256 of maps (N, C, h, w); where there are fewer, the others are zero."""
        mean, scale = maps.mean(dim=(0, 2, 3)), maps.std(dim=(0, 2, 3)).clamp_min(_SMALLEST)
        mean, scale = mean[:, None, None], scale[:, None, None]
        places = ((maps - mean) / scale).permute(0, 2, 3, 1).flatten(0, 2)
        found = PCA(min(COMPONENTS, *places.shape), svd_solver="randomized", random_state=0)
        found.fit(places.numpy())
        axes, deviations = torch.zeros(places.shape[1], COMPONENTS), torch.zeros(COMPONENTS)
        count = len(found.components_)
        deviations[:count] = torch.from_numpy(found.explained_variance_).sqrt()
        axes[:, :count] = torch.from_numpy(found.components_.T)
        axes /= deviations.clamp_min(_SMALLEST)
        return cls(mean, scale, axes, deviations / deviations.mean())

    def __call__(self, maps: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, K, h, w)."""
        return torch.einsum("nchw,ck->nkhw", (maps - self.mean) / self.scale, self.axes)


class Views:
    """Planes (1, rows, columns) in [0, 1], each shown in `VIEWS` ways that the seed decides."""

    def __init__(self, recipe: Recipe, planes: Sequence[FloatArray]) -> None:
        self._planes, self._seed = planes, recipe.seed
        self._move = augmenter(IMITATED, recipe.seed, recipe.preprocessing.rows)

    def __len__(self) -> int:
        """Give the number of planes."""
        return len(self._planes)

    def plane(self, view: int, index: int) -> FloatArray:
        """Show a plane; view 0 is the plane as it is."""
        plane = self._planes[index]
        return vary(self._move, plane, mixed_seed(self._seed, view, index)) if view else plane

    def batches(self, view: int, indices: Sequence[int]) -> Iterator[Tensor]:
        """Give some planes, (N, 1, rows, columns) at a time."""
        for start in range(0, len(indices), _BATCH):
            some = indices[start : start + _BATCH]
            yield torch.from_numpy(np.stack([self.plane(view, index) for index in some]))


@dataclass(frozen=True, slots=True)
class Seen:
    """What an encoder saw.

    Attributes
    ----------
    maps
        Of each view (N, K, h, w) float16, which may lie in a file.
    weights
        (K,); see `Components`.
    seconds
        Spent on it, earlier parts included.
    """

    maps: list[Tensor]
    weights: Tensor
    seconds: float


def look(
    views: Views,
    encoder: Encoder,
    device: torch.device,
    folder: Path,
    key: Mapping[str, Any],
    shown: FitProgress,
) -> Seen:
    """Show every view to an encoder on that device, or take what `folder` keeps under that key.

    Each view is kept as soon as it was seen; what is there under another key is deleted.
    """
    looking = _Looking(views, encoder, device, shown)
    kept = _kept(folder / _COMPONENTS_FILE)
    if kept is None or kept["key"] != key:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        kept = {"key": dict(key), **looking.components()}
        save_content(folder / _COMPONENTS_FILE, kept)
    components = Components(*(kept[field.name] for field in fields(Components)))
    maps, seconds = [], kept["seconds"]
    for view in range(VIEWS):
        file = folder / f"view{view}.pt"
        content = _kept(file)
        if content is None:
            save_content(file, looking.seen(view, components))
            content = content_of(file, mapped=True)
        maps.append(content["maps"])
        seconds += content["seconds"]
    return Seen(maps, components.weights, seconds)


@dataclass(frozen=True, slots=True)
class _Looking:
    """An encoder, on a device, before views."""

    views: Views
    encoder: Encoder
    device: torch.device
    shown: FitProgress

    def components(self) -> dict[str, Any]:
        """The components of what it sees of some planes, and the seconds that took."""
        began, count = time.monotonic(), len(self.views)
        maps = torch.cat(list(self._maps(0, range(0, count, -(-count // _LOOKED_AT)))))
        found = Components.of(maps)
        made = {field.name: getattr(found, field.name) for field in fields(found)}
        return {**made, "seconds": time.monotonic() - began}

    def seen(self, view: int, components: Components) -> dict[str, Any]:
        """What it sees in a view of all planes, and the seconds that took."""
        began = time.monotonic()
        maps = [components(some).half() for some in self._maps(view, range(len(self.views)))]
        return {"maps": torch.cat(maps), "seconds": time.monotonic() - began}

    def _maps(self, view: int, indices: Sequence[int]) -> Iterator[Tensor]:
        self.shown.part_started(f"looking, view {view + 1}/{VIEWS}", -(-len(indices) // _BATCH))
        for planes in self.views.batches(view, indices):
            yield self.encoder(planes.to(self.device)).cpu()
            self.shown.step()


def _kept(file: Path) -> dict[str, Any] | None:
    try:
        return content_of(file, mapped=True)
    except DAMAGED:
        return None
