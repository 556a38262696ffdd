"""How far a run has come, and the file from which it goes on; no code is unpickled from it."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dicom_node.errors import BadInput
from dicom_node.score.networks import StagedNetwork
from training.errors import TrainingError
from training.recipes.base import REPORTED, Recipe
from training.runs import described

DAMAGED = (
    *(OSError, RuntimeError, EOFError, pickle.UnpicklingError),
    # What PyTorch's reader stumbles over in bytes that are no pickle.
    *(AttributeError, LookupError, TypeError, ValueError),
)
_PLAIN = ("history", "found_rates", "finished_phases", "phase", "seconds")


@dataclass(slots=True)
class State:
    """All that training changes.

    Attributes
    ----------
    network
        The weights that are trained.
    average
        Their running average, where the recipe asks for one.
    history
        Figures of each epoch.
    found_rates
        Phase number -> what the learning-rate finder said.
    finished_phases
        How many are done.
    phase
        Epochs, optimizer and schedule of the phase after those, if it has begun.
    seconds
        Spent so far.
    """

    network: StagedNetwork
    average: AveragedModel | None
    history: list[dict[str, Any]] = field(default_factory=list)
    found_rates: dict[str, float] = field(default_factory=dict)
    finished_phases: int = 0
    phase: dict[str, Any] | None = None
    seconds: float = 0.0

    @property
    def judged(self) -> StagedNetwork:
        """The network that is validated and kept."""
        return self.network if self.average is None else cast(StagedNetwork, self.average.module)


def initial_state(recipe: Recipe, network: StagedNetwork) -> State:
    """The state before the first epoch."""
    if recipe.ema is None:
        return State(network, None)
    decay = get_ema_multi_avg_fn(recipe.ema)  # type: ignore[no-untyped-call]
    return State(network, AveragedModel(network, multi_avg_fn=decay, use_buffers=True))


def save_checkpoint(path: Path, recipe: Recipe, digest: str, state: State) -> None:
    """Write the state; see `save_content`."""
    content = {name: getattr(state, name) for name in _PLAIN}
    content |= {"recipe": _learned_by(described(recipe)), "digest": digest}
    content["network"] = state.network.state_dict()
    content["average"] = state.average.state_dict() if state.average is not None else None
    save_content(path, content)


def save_content(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values; the file is the old or the new one, also if killed.

    Raises
    ------
    TrainingError
        It cannot be written.
    """
    with _in_place_of(path) as part:
        torch.save(content, part)


def content_of(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """What `save_content` wrote, tensors left in the file if `mapped`; raises one of `DAMAGED`."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    return content


def load_checkpoint(path: Path, recipe: Recipe, digest: str, state: State) -> bool:
    """Fill the state with what `save_checkpoint` wrote; False if there is nothing yet.

    Raises
    ------
    BadInput
        The file is damaged, or was written for other data or a recipe by which something else is
        learned; what is only reported of a model may have changed.
    """
    if not path.is_file():
        return False
    try:
        content = content_of(path)
    except DAMAGED as error:
        raise BadInput(
            f"{path} is damaged ({error}): delete it, or give --overwrite instead of --resume"
        ) from error
    for what, found, own in (
        ("recipe", _learned_by(content["recipe"]), _learned_by(described(recipe))),
        ("data", content["digest"], digest),
    ):
        if found != own:
            raise BadInput(
                f"{path} was written for another {what}: give another --name, or --overwrite "
                "instead of --resume to train anew in this one"
            )
    state.network.load_state_dict(content["network"])
    if state.average is not None:
        state.average.load_state_dict(content["average"])
    for name in _PLAIN:
        setattr(state, name, content[name])
    return True


def _learned_by(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in recipe.items() if name not in REPORTED}


def save_weights(path: Path, network: nn.Module) -> None:
    """Write a network's state dict as safetensors; as `save_content`."""
    weights = {
        name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()
    }
    with _in_place_of(path) as part:
        save_file(weights, part)


@contextmanager
def _in_place_of(path: Path) -> Iterator[Path]:
    """A file beside that path, which takes its place once it is whole."""
    part = path.with_name(path.name + ".part")
    try:
        yield part
        part.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:  # each writer has its own for ENOSPC
        part.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free / 1e6
        raise TrainingError(
            f"{path} cannot be written ({error}); {free:.0f} MB are free there: make room, then "
            "train on with --resume"
        ) from error
