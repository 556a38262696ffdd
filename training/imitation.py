"""Before it learns labels, a network learns to see what a larger one sees (Romero et al. 2015).

Labels say one bit about a slice; the maps of a network that has seen tens of thousands of chest CT
series say what is where on it. On every training picture, moved and scaled anew each time, the
network's last maps, taken through one linear layer, are to equal the principal components of the
larger network's maps (arXiv:1412.6550). No label and no validation picture is looked at.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset

from dicom_node.score.networks import StagedNetwork
from dicom_node.score.transforms import FloatArray, Pipeline
from training.augment import augmenter, moves, vary
from training.batches import EpochOrder, autocast, mixed_seed
from training.checkpoint import DAMAGED, content_of, save_content, save_weights
from training.ct_network import slice_encoder
from training.data import Splits
from training.errors import TrainingError
from training.progress import FitProgress
from training.recipes.augmentations import IMITATED
from training.recipes.base import Recipe
from training.runs import CHECKPOINT, WEIGHTS, data_digest, described

IMITATION = "imitation"
"""Folder inside a run."""

Encoder = Callable[[Tensor], Tensor]
"""Planes (N, 1, H, W) in [0, 1] to maps (N, C, h, w), without gradients."""

_KEY = ("preprocessing", "augmentation", "seed", "imitation_epochs")
"""What of a recipe imitation depends on, besides the network with which it begins."""
_COMPONENTS = 256
_LOOKED_AT = 1000
"""Pictures of which the components are taken; their maps take 0.6 GB at a side of 224."""
_BATCH = 32
_RATE, _WEIGHT_DECAY, _WARM_UP = 2e-3, 0.02, 0.1
_SMALLEST = 1e-3
_INSTEAD = "train without imitation (--set imitation_epochs=0)"


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
        found = PCA(min(_COMPONENTS, *places.shape), svd_solver="randomized", random_state=0)
        found.fit(places.numpy())
        axes, deviations = torch.zeros(places.shape[1], _COMPONENTS), torch.zeros(_COMPONENTS)
        count = len(found.components_)
        deviations[:count] = torch.from_numpy(found.explained_variance_).sqrt()
        axes[:, :count] = torch.from_numpy(found.components_.T)
        axes /= deviations.clamp_min(_SMALLEST)
        return cls(mean, scale, axes, deviations / deviations.mean())

    def __call__(self, maps: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, K, h, w)."""
        return torch.einsum("nchw,ck->nkhw", (maps - self.mean) / self.scale, self.axes)

    def to(self, device: torch.device) -> Components:
        """The same on another device."""
        parts = (self.mean, self.scale, self.axes, self.weights)
        return Components(*(part.to(device) for part in parts))


def imitate(
    recipe: Recipe,
    splits: Splits,
    folder: Path,
    network: StagedNetwork,
    *,
    workers: int,
    shown: FitProgress,
) -> float:
    """Train a network, on its device, to see training slices as `training.ct_network` does.

    Writes `weights.safetensors` and, after each epoch, `checkpoint.pt` into `folder`, and goes on
    from that of the same data and settings: it would come to the same again.

    Returns
    -------
    seconds
        Spent on it, earlier parts included.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / CHECKPOINT
    planes = [picture.plane for picture in splits.train]
    encoder = slice_encoder().to(next(network.parameters()).device)
    imitation = Imitation(recipe, planes, network, encoder, workers=workers)
    key = {"data": data_digest(splits), "network": _network_digest(network)}
    key |= {name: described(getattr(recipe, name)) for name in _KEY}
    if imitation.load(checkpoint, key):
        shown.say(f"going on after epoch {imitation.epoch}")
    imitation.run(checkpoint, key, shown)
    save_weights(folder / WEIGHTS, network)
    return imitation.seconds


class Imitation:
    """The training of all but the head of a network, on its device, to see as an encoder does.

    Parameters
    ----------
    recipe
        Its preprocessing, augmentation, seed and number of epochs.
    planes
        (1, rows, columns) float32 in [0, 1].
    network
        What is trained.
    encoder
        What it is to imitate, on the same device.
    """

    def __init__(
        self,
        recipe: Recipe,
        planes: Sequence[FloatArray],
        network: StagedNetwork,
        encoder: Encoder,
        *,
        workers: int,
    ) -> None:
        self._recipe, self._network, self._encoder = recipe, network, encoder
        self._device = next(network.parameters()).device
        self._planes = planes
        self._order = EpochOrder(len(planes), recipe.seed)
        self._loader = DataLoader(
            _MovedPlanes(recipe, planes),
            batch_size=_BATCH,
            sampler=self._order,
            num_workers=workers,
            generator=torch.Generator().manual_seed(recipe.seed),
            drop_last=len(planes) > _BATCH,
        )
        self._last = self._made_last()
        *body, _ = network.layer_groups()
        parameters = [*nn.ModuleList(body).parameters(), *self._last.parameters()]
        self._optimizer = torch.optim.AdamW(parameters, lr=_RATE, weight_decay=_WEIGHT_DECAY)
        steps = len(self._loader) * recipe.imitation_epochs
        self._schedule = OneCycleLR(self._optimizer, _RATE, total_steps=steps, pct_start=_WARM_UP)
        self.epoch, self.seconds = 0, 0.0

    def run(self, checkpoint: Path, key: Mapping[str, Any], shown: FitProgress) -> None:
        """Train the epochs that are left, and keep a checkpoint of each."""
        total = self._recipe.imitation_epochs
        if self.epoch < total:
            shown.say("looking at the training pictures with the network that is imitated")
            components = self._components()
        while self.epoch < total:
            began = time.monotonic()
            shown.epoch_started(self.epoch + 1, len(self._loader))
            loss = self._run_epoch(components, shown)
            self.epoch += 1
            self.seconds += time.monotonic() - began
            self._save(checkpoint, key)
            shown.say(f"imitation {self.epoch}/{total}: loss {loss:.4f}, {self.seconds:.0f} s")

    def load(self, checkpoint: Path, key: Mapping[str, Any]) -> bool:
        """Take what `run` kept under the same key; False if there is nothing, or it is damaged."""
        try:
            content = content_of(checkpoint)
        except DAMAGED:
            return False
        if content["key"] != key:
            return False
        for name, part in self._parts().items():
            part.load_state_dict(content[name])
        self.epoch, self.seconds = content["epoch"], content["seconds"]
        return True

    def _save(self, checkpoint: Path, key: Mapping[str, Any]) -> None:
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        own = {"key": dict(key), "epoch": self.epoch, "seconds": self.seconds}
        save_content(checkpoint, {**own, **parts})

    def _parts(self) -> dict[str, Any]:
        return {
            "network": self._network,
            "last": self._last,
            "optimizer": self._optimizer,
            "schedule": self._schedule,
        }

    def _made_last(self) -> nn.Conv2d:
        side = self._recipe.preprocessing.rows
        with torch.no_grad():
            maps, _ = self._network.eval().encode(
                torch.zeros(1, 3, side, side, device=self._device)
            )
        return nn.Conv2d(maps.shape[1], _COMPONENTS, 1).to(self._device)

    def _run_epoch(self, components: Components, shown: FitProgress) -> float:
        self._order.epoch = self.epoch
        torch.manual_seed(mixed_seed(self._recipe.seed, self.epoch))
        self._network.train()
        losses = []
        for moved, images in self._loader:
            wanted = components(self._encoder(moved.to(self._device)))
            losses.append(self._step(images.to(self._device), wanted, components.weights))
            shown.step(losses[-1])
        return float(np.mean(losses))

    def _components(self) -> Components:
        parts = []
        some = self._planes[:: -(-len(self._planes) // _LOOKED_AT)]
        for start in range(0, len(some), _BATCH):
            images = torch.from_numpy(np.stack(some[start : start + _BATCH]))
            parts.append(self._encoder(images.to(self._device)).cpu())
        return Components.of(torch.cat(parts)).to(self._device)

    def _step(self, images: Tensor, wanted: Tensor, weights: Tensor) -> float:
        with autocast(self._device):
            maps, _ = self._network.encode(images.contiguous(memory_format=torch.channels_last))
            seen = self._last(maps)
        wanted = functional.adaptive_avg_pool2d(wanted, seen.shape[-2:])
        loss = ((seen.float() - wanted).square().mean(dim=(0, 2, 3)) * weights).mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"imitation: the loss became {value} in epoch {self.epoch + 1}: {_INSTEAD}"
            )
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._schedule.step()
        return value


class _MovedPlanes(Dataset[tuple[Tensor, Tensor]]):
    """A plane as it was moved, for the encoder, and as it was then varied, for the network."""

    def __init__(self, recipe: Recipe, planes: Sequence[FloatArray]) -> None:
        self._planes, self._seed = planes, recipe.seed
        self._pipeline = Pipeline(recipe.preprocessing)
        side = recipe.preprocessing.rows
        others = [spec for spec in recipe.augmentation if not moves(spec)]
        self._move = augmenter(IMITATED, recipe.seed, side)
        self._vary = augmenter(others, recipe.seed, side)

    def __len__(self) -> int:
        return len(self._planes)

    def __getitem__(self, draw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = draw
        seed = mixed_seed(self._seed, epoch, index)
        moved = vary(self._move, self._planes[index], seed)
        image = self._pipeline.tensor(vary(self._vary, moved, seed))
        return torch.from_numpy(moved), torch.as_tensor(image)


def _network_digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()
