"""Train a recipe, phase by phase, and keep the epoch that is best in validation.

Whatever is random depends on the recipe's seed, the epoch and the picture alone, so a run that was
interrupted and resumed ends as one that was not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from monai.utils.misc import set_determinism

from dicom_node.score.networks import StagedNetwork
from training import runs
from training.batches import training_loader
from training.beginning import beginning, begins_elsewhere
from training.checkpoint import State, initial_state, load_checkpoint
from training.data import Picture, Splits
from training.divisions import check_pictures, teacher_splits, without_domains
from training.errors import TrainingError
from training.guidance import GuidedLoss
from training.imitation import IMITATION, imitate
from training.logs import Log, check_logs, open_logs
from training.loop import PhaseLoop, Setting
from training.losses import SoftLoss, class_weights, hard_targets
from training.lr_find import find_rate
from training.lung_field import Mask
from training.lungs import lungs_on
from training.phases import with_highest_rate
from training.pretrained import initial_file, load_run, start_from
from training.progress import FitProgress
from training.recipes.base import Phase, Recipe
from training.soup import member_folders, member_seed, stir
from training.summary import summarise
from training.teachers import Teachers, teacher_folders, teacher_recipe
from training.trial import all_gpus, chosen_device, explained_shortage, try_largest_step

__all__ = ["TrainingError", "chosen_device", "fit"]


def fit(
    recipe: Recipe,
    splits: Splits,
    run: Path,
    *,
    weights_file: Path | None = None,
    sha256: str | None = None,
    resume: bool = False,
    device: str = "auto",
    progress: bool = True,
    workers: int = 1,
    logs: Sequence[str] = (),
    made_from: Mapping[str, Any] | None = None,
) -> None:
    """Train on `splits.train`, choose on `splits.validation`; the test split is not looked at.

    A recipe of several members is trained once for each, in folders inside `run`, and `run` gets
    the mean of their weights. Imitation and teachers come first, a network without each domain
    last, in folders inside `run`, too. Before all of them the largest step is tried.

    Writes `weights.safetensors`, `config.json`, `history.json`, `timing.json`, `checkpoint.pt` and
    what `training.summary` draws into `run`.

    Parameters
    ----------
    weights_file, sha256
        See `training.pretrained.initial_network`.
    resume
        Go on from `checkpoint.pt` where there is one.
    device
        `auto`, `cpu`, `cuda` (of several GPUs each takes a part of the batch) or `cuda:N`.
    workers
        Processes that prepare batches.
    logs
        Where figures go besides the folder, see `training.logs`.
    made_from
        Base recipe, name, changes and fallback, for `training.runs.recipe_of`.

    Raises
    ------
    BadInput
        Pictures, weights or settings are not what they should be, or the run at which the recipe
        begins is not there; nothing is trained then.
    TrainingError
        The training cannot go on, or memory is short.
    """
    check_pictures(recipe, splits)
    taught_from = teacher_splits(recipe, splits)
    without = without_domains(recipe, splits, run)
    check_logs(logs)
    made = dict(made_from or runs.made_plainly(recipe))
    elsewhere = begins_elsewhere(recipe, run.parent, made, weights_file=weights_file)
    if elsewhere:
        FitProgress(recipe.name, recipe.epochs, shown=progress).say(elsewhere)
    processor = chosen_device(device)
    initial = initial_file(recipe, weights_file=weights_file, sha256=sha256)
    config = {
        "made_from": made,
        "recipe": runs.described(recipe),
        "weights_file": weights_file.name if weights_file else None,
        "weights_sha256": initial[1] if initial else None,
        "data": _described(splits),
        "environment": runs.environment(processor),
    }
    start = _Start(
        weights_file,
        sha256,
        run.parent,
        processor,
        resume,
        workers,
        progress,
        tuple(logs),
        config,
    )
    _try(recipe, len(splits.train), start)
    runs.begin((run, *(left.run for left in without)), resume=resume)
    lungs = _lungs(recipe, splits.train, run.parent / runs.PLANES, progress=progress)
    start = replace(start, lungs=lungs)
    spent = []
    if recipe.imitation_epochs:
        imitated, timing = _imitation(recipe, splits, run / IMITATION, start)
        start = replace(start, imitated=imitated)
        spent.append(timing)
    teachers, times = _teachers(recipe, taught_from, run, start)
    spent += times
    folders = member_folders(recipe, run)
    for number, folder in enumerate(folders):
        title = f"{recipe.name} {folder.name}/{len(folders)}" if len(folders) > 1 else recipe.name
        member = _member(recipe, number)
        network, timing = _train(member, splits, folder, start, title, teachers)
        spent.append(timing)
    if len(folders) > 1:
        stir(folders, run)
        started_from = runs.read_json(folders[0], runs.CONFIG)["started_from"]
        runs.write_json(run / runs.CONFIG, {**config, "started_from": started_from})
    for left in without:
        title = f"{recipe.name} without {left.name}"
        _, timing = _train(left.recipe, left.splits, left.run, start, title)
        runs.write_json(left.run / runs.TIMING, timing)
        spent.append(timing)
    runs.write_json(run / runs.TIMING, runs.summed_timing(spent))
    summarise(recipe, splits.validation, run, network)


@dataclass(frozen=True, slots=True)
class _Start:
    """What all parts of a run begin with; see `fit`."""

    weights_file: Path | None
    sha256: str | None
    runs: Path
    processor: torch.device
    resume: bool
    workers: int
    progress: bool
    logs: tuple[str, ...]
    config: Mapping[str, Any]
    lungs: Mapping[Picture, Mask] = field(default_factory=dict)
    """Of the training pictures, where the recipe is guided by them."""
    imitated: Path | None = None
    """Weights that imitation left."""


def _try(recipe: Recipe, pictures: int, start: _Start) -> None:
    """Read the initial weights and try the largest step: either may fail, and soon should."""
    set_determinism(recipe.seed)
    network, _ = _initial(recipe, start)
    with explained_shortage(recipe):
        network.to(start.processor).to(memory_format=torch.channels_last)
    try_largest_step(recipe, network, pictures)


def _lungs(
    recipe: Recipe, pictures: Sequence[Picture], cache: Path, *, progress: bool
) -> dict[Picture, Mask]:
    if not recipe.guided:
        return {}
    planes = [picture.plane for picture in pictures]
    found = lungs_on(recipe.kind, planes, cache=cache, progress=progress)
    return dict(zip(pictures, found, strict=True))


def _initial(recipe: Recipe, start: _Start) -> tuple[StagedNetwork, str | None]:
    """The network with which all parts of a run begin, and the run whose backbone it has."""
    network, started_from = beginning(
        recipe, start.runs, weights_file=start.weights_file, sha256=start.sha256
    )
    if start.imitated is not None:
        start_from(network, start.imitated)
    return network, started_from


def _imitation(
    recipe: Recipe, splits: Splits, folder: Path, start: _Start
) -> tuple[Path, dict[str, Any]]:
    """Let the network learn to see without labels; its weights, and the time it took."""
    set_determinism(recipe.seed)
    network, _ = _initial(recipe, start)
    network.to(start.processor).to(memory_format=torch.channels_last)
    title = f"{recipe.name} {folder.name}"
    progress = FitProgress(title, recipe.imitation_epochs, shown=start.progress)
    with progress as shown, explained_shortage(recipe):
        seconds = imitate(recipe, splits, folder, network, workers=start.workers, shown=shown)
    return folder / runs.WEIGHTS, runs.timing(seconds, start.processor)


def _member(recipe: Recipe, number: int) -> Recipe:
    return recipe if number == 0 else replace(recipe, seed=member_seed(recipe, number))


def _teachers(
    recipe: Recipe, parts: Sequence[Splits], run: Path, start: _Start
) -> tuple[Teachers | None, list[dict[str, Any]]]:
    """Train what teaches the recipe's own training, each kept at its best epoch; their times."""
    if not parts:
        return None, []
    networks, spent = [], []
    folders = teacher_folders(recipe, run)
    for number, (folder, part) in enumerate(zip(folders, parts, strict=True)):
        title = f"{recipe.name} {folder.name}/{len(folders)}"
        network, timing = _train(teacher_recipe(recipe, number), part, folder, start, title)
        load_run(network, folder / runs.WEIGHTS)
        networks.append(network)
        spent.append(timing)
    return Teachers(networks, recipe.function, recipe.teacher_weight), spent


def _train(
    recipe: Recipe,
    splits: Splits,
    run: Path,
    start: _Start,
    title: str,
    teachers: Teachers | None = None,
) -> tuple[StagedNetwork, dict[str, Any]]:
    """One training into `run`; the network as the last step left it, and the time it took."""
    set_determinism(recipe.seed)
    run.mkdir(parents=True, exist_ok=True)
    network, started_from = _initial(recipe, start)
    network.to(start.processor).to(memory_format=torch.channels_last)
    data = _described(splits)
    with (
        FitProgress(title, recipe.epochs, shown=start.progress) as shown,
        explained_shortage(recipe),
        open_logs(start.logs, run) as logs,
    ):
        setting = _setting(recipe, splits, run, data["digest"], start, logs, shown, teachers)
        state = initial_state(recipe, network)
        if start.resume and load_checkpoint(run / runs.CHECKPOINT, recipe, data["digest"], state):
            shown.say(f"going on after epoch {len(state.history)}")
        own = {"recipe": runs.described(recipe), "data": data, "started_from": started_from}
        runs.write_json(run / runs.CONFIG, {**start.config, **own})
        for number in range(state.finished_phases, len(recipe.phases)):
            phase = _with_found_rate(setting, state, number, recipe.phases[number])
            PhaseLoop(setting, state, number, phase).run()
    return network, runs.timing(state.seconds, start.processor)


def _described(splits: Splits) -> dict[str, Any]:
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    sizes = {name: len(pictures) for name, pictures in parts.items()}
    return {"digest": runs.data_digest(splits), "n": sizes}


def _setting(
    recipe: Recipe,
    splits: Splits,
    run: Path,
    digest: str,
    start: _Start,
    logs: Sequence[Log],
    shown: FitProgress,
    teachers: Teachers | None,
) -> Setting:
    device = start.processor
    numbers = [picture.target for picture in splits.train]
    targets = hard_targets(numbers, recipe.function, len(recipe.labels))
    lungs = [start.lungs[picture] for picture in splits.train] if recipe.guided else None
    loader, order = training_loader(
        recipe, splits.train, targets, workers=start.workers, lungs=lungs
    )
    weights = torch.ones(len(recipe.labels))
    if recipe.class_balanced:
        weights = class_weights(numbers, len(recipe.labels))
    labels = SoftLoss(recipe.function, weights, recipe.label_smoothing)
    loss = GuidedLoss(labels, recipe.lung_attention).to(device)
    several = all_gpus(device)
    return Setting(recipe, splits, run, loader, order, loss, digest, logs, several, shown, teachers)


def _with_found_rate(setting: Setting, state: State, number: int, phase: Phase) -> Phase:
    if not phase.find_rate:
        return phase
    key = str(number)
    if key not in state.found_rates:
        setting.shown.say(f"looking for the learning rate of phase {number + 1}")
        curve = find_rate(setting.recipe, phase, state.network, setting.splits)
        runs.write_json(setting.run / runs.RATE_CURVE, curve)
        state.found_rates[key] = curve["suggestion"]
    return with_highest_rate(phase, state.found_rates[key])
