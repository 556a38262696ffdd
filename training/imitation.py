"""Before it learns labels, a network learns to see what a larger one sees (Romero et al. 2015).

Labels say one bit about a slice; the maps of a network that has seen tens of thousands of chest CT
series say what is where on it. On every training picture, moved and scaled in several ways, the
network's last maps, taken through one linear layer, are to equal the principal components of the
larger network's maps (arXiv:1412.6550). No label and no validation picture is looked at.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset

from dicom_node.score.networks import StagedNetwork
from dicom_node.score.transforms import Pipeline
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
from training.views import COMPONENTS, VIEWS, Seen, Views, look

IMITATION = "imitation"
"""Folder inside a run."""
_VIEWS = "views"

_KEY = ("augmentation", "imitation_epochs")
"""What of a recipe imitation depends on, besides what is seen and the network that learns."""
_VARIED = 0.5
"""How often what the network sees of a view is varied further."""
_BATCH = 32
_RATE, _WEIGHT_DECAY, _WARM_UP = 2e-3, 0.02, 0.1
_INSTEAD = "train without imitation (--set imitation_epochs=0)"


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
    from that of the same data and settings: it would come to the same again. What the larger
    network saw is kept beside them until it was learned.

    Returns
    -------
    seconds
        Spent on it, earlier parts included.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / CHECKPOINT
    views = Views(recipe, [picture.plane for picture in splits.train])
    imitation = Imitation(recipe, views, network, workers=workers)
    shows = _shows(recipe, splits)
    key = shows | {"network": _network_digest(network)}
    key |= {name: described(getattr(recipe, name)) for name in _KEY}
    if imitation.load(checkpoint, key):
        shown.say(f"going on after epoch {imitation.epoch}")
    if imitation.epoch < recipe.imitation_epochs:
        device = imitation.device
        seen = look(views, slice_encoder().to(device), device, folder / _VIEWS, shows, shown)
        imitation.run(seen, checkpoint, key, shown)
    save_weights(folder / WEIGHTS, network)
    shutil.rmtree(folder / _VIEWS, ignore_errors=True)
    return imitation.seconds


class Imitation:
    """The training of all but the head of a network, on its device, to see as an encoder does.

    Parameters
    ----------
    recipe
        Its preprocessing, augmentation, seed and number of epochs.
    views
        What the encoder was shown.
    network
        What is trained.
    """

    def __init__(
        self, recipe: Recipe, views: Views, network: StagedNetwork, *, workers: int
    ) -> None:
        self._recipe, self._views, self._network, self._workers = recipe, views, network, workers
        self.device = next(network.parameters()).device
        self._last = self._made_last()
        *body, _ = network.layer_groups()
        parameters = [*nn.ModuleList(body).parameters(), *self._last.parameters()]
        self._optimizer = torch.optim.AdamW(parameters, lr=_RATE, weight_decay=_WEIGHT_DECAY)
        # As `_loader`: a last batch that is not full is left out, if it is not all.
        steps = max(1, len(views) // _BATCH) * recipe.imitation_epochs
        self._schedule = OneCycleLR(self._optimizer, _RATE, total_steps=steps, pct_start=_WARM_UP)
        self.epoch, self.seconds = 0, 0.0

    def run(self, seen: Seen, checkpoint: Path, key: Mapping[str, Any], shown: FitProgress) -> None:
        """Train the epochs that are left on what the encoder saw; keep a checkpoint of each."""
        if self.epoch == 0:
            self.seconds = seen.seconds
        loader, order = self._loader(seen)
        weights = seen.weights.to(self.device)
        while self.epoch < self._recipe.imitation_epochs:
            began = time.monotonic()
            shown.epoch_started(self.epoch + 1, len(loader))
            order.epoch = self.epoch
            loss = self._run_epoch(loader, weights, shown)
            self.epoch += 1
            self.seconds += time.monotonic() - began
            self._save(checkpoint, key)
            shown.say(
                f"imitation {self.epoch}/{self._recipe.imitation_epochs}: loss {loss:.4f}, "
                f"{self.seconds:.0f} s"
            )

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
            maps, _ = self._network.eval().encode(torch.zeros(1, 3, side, side, device=self.device))
        return nn.Conv2d(maps.shape[1], COMPONENTS, 1).to(self.device)

    def _loader(self, seen: Seen) -> tuple[DataLoader[tuple[Tensor, Tensor]], EpochOrder]:
        order = EpochOrder(len(self._views), self._recipe.seed)
        loader = DataLoader(
            _SeenSlices(self._recipe, self._views, seen),
            batch_size=_BATCH,
            sampler=order,
            num_workers=self._workers,
            generator=torch.Generator().manual_seed(self._recipe.seed),
            drop_last=len(self._views) > _BATCH,
        )
        return loader, order

    def _run_epoch(
        self, loader: DataLoader[tuple[Tensor, Tensor]], weights: Tensor, shown: FitProgress
    ) -> float:
        torch.manual_seed(mixed_seed(self._recipe.seed, self.epoch))
        self._network.train()
        losses = []
        for images, wanted in loader:
            losses.append(self._step(images.to(self.device), wanted.to(self.device), weights))
            shown.step(losses[-1])
        return float(np.mean(losses))

    def _step(self, images: Tensor, wanted: Tensor, weights: Tensor) -> float:
        with autocast(self.device):
            maps, _ = self._network.encode(images.contiguous(memory_format=torch.channels_last))
            seen = self._last(maps)
        wanted = functional.adaptive_avg_pool2d(wanted.float(), seen.shape[-2:])
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


class _SeenSlices(Dataset[tuple[Tensor, Tensor]]):
    """A view of a slice, half of them varied for the network, and what the encoder saw of it."""

    def __init__(self, recipe: Recipe, views: Views, seen: Seen) -> None:
        self._views, self._seen, self._seed = views, seen.maps, recipe.seed
        self._pipeline = Pipeline(recipe.preprocessing)
        others = [spec for spec in recipe.augmentation if not moves(spec)]
        self._vary = augmenter(others, recipe.seed, recipe.preprocessing.rows)

    def __len__(self) -> int:
        return len(self._views)

    def __getitem__(self, draw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = draw
        # Each slice in another order, and in every view before one comes again.
        view = (epoch + index) % len(self._seen)
        plane = self._views.plane(view, index)
        seed = mixed_seed(self._seed, epoch, index)
        if np.random.default_rng(seed).uniform() < _VARIED:
            plane = vary(self._vary, plane, seed)
        return torch.as_tensor(self._pipeline.tensor(plane)), self._seen[view][index]


def _shows(recipe: Recipe, splits: Splits) -> dict[str, Any]:
    """What decides what the encoder is shown."""
    return {
        "data": data_digest(splits),
        "preprocessing": described(recipe.preprocessing),
        "moves": described(IMITATED),
        "seed": recipe.seed,
        "views": VIEWS,
    }


def _network_digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()
