"""One phase of a recipe on MONAI's supervised trainer."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from ignite.engine.engine import Engine
from ignite.engine.events import Events
from ignite.handlers.early_stopping import EarlyStopping
from monai.engines.trainer import SupervisedTrainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dicom_node.score.transforms import Pipeline
from training import runs
from training.batches import EpochOrder, mixed_seed, predict_logits
from training.checkpoint import State, save_checkpoint, save_weights
from training.data import Splits
from training.errors import TrainingError
from training.guidance import GuidedLoss, Taught
from training.logs import Log
from training.losses import mixed
from training.phases import OutputInferer, frozen_groups, optimizer_of, schedule_of
from training.progress import FitProgress
from training.recipes.base import Phase, Recipe
from training.teachers import Teachers
from training.validate import validation_figures

_NAMED_PICTURES = 8


@dataclass(frozen=True, slots=True)
class Setting:
    """What all phases of a run share and none changes.

    Attributes
    ----------
    run
        Folder for weights, history and checkpoint.
    digest
        Of the data, for the checkpoint.
    logs
        Where figures go besides the folder.
    all_gpus
        Whether each of several GPUs takes a part of the batch.
    teachers
        Who move the targets of every batch; None: the labels alone count.
    """

    recipe: Recipe
    splits: Splits
    run: Path
    loader: DataLoader[dict[str, Any]]
    order: EpochOrder
    loss: GuidedLoss
    digest: str
    logs: Sequence[Log]
    all_gpus: bool
    shown: FitProgress
    teachers: Teachers | None


class PhaseLoop:
    """A phase, or what is left of it, with a checkpoint after each epoch."""

    def __init__(self, setting: Setting, state: State, number: int, phase: Phase) -> None:
        self._setting, self._state, self._number = setting, state, number
        self._device = next(state.network.parameters()).device
        begun = state.phase
        self._epochs_before = begun["epochs"] if begun else 0
        frozen = frozen_groups(state.network, phase)
        optimizer = optimizer_of(setting.recipe, phase, state.network)
        self._trainer = self._made(phase.epochs - self._epochs_before, optimizer, frozen)
        schedule = schedule_of(phase, optimizer, len(setting.loader))
        self._optimizer, self._schedule = optimizer, schedule
        self._parts: dict[str, Any] = {"optimizer": optimizer, "schedule": schedule}
        patience = setting.recipe.early_stopping
        if patience:
            self._parts["stopping"] = EarlyStopping(patience, self._latest_goodness, self._trainer)
        if begun:
            for name, part in self._parts.items():
                part.load_state_dict(begun[name])
        self._figures: list[dict[str, Any]] = []

    def run(self) -> None:
        """Train; the state is that of the finished phase afterwards."""
        self._started = time.monotonic() - self._state.seconds
        self._trainer.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        self._trainer.add_event_handler(Events.ITERATION_COMPLETED, self._complete_step)
        self._trainer.add_event_handler(Events.EPOCH_COMPLETED, self._complete_epoch)
        # The first pass may begin before its epoch does.
        self._setting.order.epoch = len(self._state.history) + 1
        self._trainer.run()

    def _made(
        self, epochs: int, optimizer: torch.optim.Optimizer, frozen: list[nn.ModuleList]
    ) -> SupervisedTrainer:
        network: nn.Module = self._state.network
        if self._setting.all_gpus:
            network = nn.DataParallel(network)
        return SupervisedTrainer(
            device=self._device,
            max_epochs=epochs,
            train_data_loader=self._setting.loader,
            network=network,
            optimizer=optimizer,
            loss_function=self._setting.loss,
            inferer=OutputInferer(frozen),
            prepare_batch=self._prepared,
            decollate=False,
        )

    def _prepared(
        self, batch: dict[str, Tensor], device: torch.device, *_: Any, **__: Any
    ) -> tuple[Tensor, Taught]:
        images, targets = batch["image"].to(device), batch["label"].to(device)
        lungs = batch["lungs"].to(device) if "lungs" in batch else None
        alpha = self._setting.recipe.mixup
        if alpha:
            images, targets = mixed(images, targets, alpha)
        if self._setting.teachers is not None:
            targets = self._setting.teachers.taught(images, targets)
        return images, Taught(targets, lungs)

    def _latest_goodness(self, engine: Engine) -> float:
        del engine
        return goodness(self._state.history[-1], len(self._setting.recipe.labels))[0]

    def _start_epoch(self, engine: Engine) -> None:
        epoch = self._setting.order.epoch = len(self._state.history) + 1
        torch.manual_seed(mixed_seed(self._setting.recipe.seed, epoch))
        self._figures = []
        self._setting.shown.epoch_started(epoch, len(self._setting.loader))

    def _complete_step(self, engine: Engine) -> None:
        output: Any = engine.state.output
        loss = float(output["loss"].detach())
        if not math.isfinite(loss):
            raise TrainingError(self._not_finite(engine, loss))
        rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        right = _right(output["pred"].logits.detach(), output["label"].targets)
        self._figures.append({"loss": loss, "right": right, "rates": rates})
        self._schedule.step()
        if self._state.average is not None:
            self._state.average.update_parameters(self._state.network)
        self._setting.shown.step(loss)

    def _not_finite(self, engine: Engine, loss: float) -> str:
        train, batch = self._setting.splits.train, cast(Any, engine.state.batch)
        paths = [train[int(index)].item.path for index in batch["index"]]
        more = f" and {len(paths) - _NAMED_PICTURES} more" if len(paths) > _NAMED_PICTURES else ""
        return (
            f"the loss became {loss} at step {len(self._figures) + 1} of epoch "
            f"{self._setting.order.epoch}, on {', '.join(paths[:_NAMED_PICTURES])}{more}: lower "
            "the learning rate (--set rate=...), or look at these pictures"
        )

    def _complete_epoch(self, engine: Engine) -> None:
        state, setting = self._state, self._setting
        figures = self._validated()
        labels = len(setting.recipe.labels)
        best = all(goodness(figures, labels) > goodness(past, labels) for past in state.history)
        state.history.append(figures)
        if best:
            save_weights(setting.run / runs.WEIGHTS, state.judged)
        if "stopping" in self._parts:
            self._parts["stopping"](engine)
        self._remember(engine)
        setting.shown.epoch_ended(figures, best=best)
        plain = {name: value for name, value in figures.items() if isinstance(value, float)}
        for log in setting.logs:
            log(plain, figures["epoch"])

    def _validated(self) -> dict[str, Any]:
        state, setting, steps = self._state, self._setting, self._figures
        pictures = setting.splits.validation
        pipeline = Pipeline(setting.recipe.preprocessing)
        logits = predict_logits(state.judged, pictures, pipeline, setting.recipe.batch_size)
        if not np.isfinite(logits).all():
            raise TrainingError(
                f"the network gives numbers that are not finite after epoch {setting.order.epoch}: "
                "lower the learning rate (--set rate=...)"
            )
        state.seconds = time.monotonic() - self._started
        targets = [picture.target for picture in pictures]
        return {
            "epoch": setting.order.epoch,
            "phase": self._number + 1,
            "train_loss": float(np.mean([step["loss"] for step in steps])),
            "train_accuracy": float(np.mean([step["right"] for step in steps])),
            **validation_figures(setting.recipe, logits, targets),
            "learning_rate": steps[-1]["rates"],
            "seconds": round(state.seconds, 1),
        }

    def _remember(self, engine: Engine) -> None:
        state, setting = self._state, self._setting
        if engine.should_terminate or engine.state.epoch == engine.state.max_epochs:
            state.finished_phases, state.phase = self._number + 1, None
        else:
            state.phase = {name: part.state_dict() for name, part in self._parts.items()}
            state.phase["epochs"] = self._epochs_before + engine.state.epoch
        runs.write_json(setting.run / runs.HISTORY, state.history)
        save_checkpoint(setting.run / runs.CHECKPOINT, setting.recipe, setting.digest, state)


def goodness(figures: dict[str, Any], labels: int) -> tuple[float, ...]:
    """What the best epoch has most of.

    Few validation pictures give many epochs the same AUC; the loss then decides. Of three labels or
    more the AUC sees one alone, and only the loss sees all.
    """
    loss = float(figures["validation_loss"])
    return (-loss,) if labels > 2 else (float(figures["validation_auc"]), -loss)


def _right(logits: Tensor, targets: Tensor) -> float:
    """Share of right calls; of a mixture the greater part counts."""
    if logits.shape[1] == 1:
        return float(((logits > 0) == (targets > 0.5)).float().mean())
    return float((logits.argmax(dim=1) == targets.argmax(dim=1)).float().mean())
