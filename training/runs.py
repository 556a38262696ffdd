"""What a run leaves in its folder, and how a run is read again."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from dicom_node.errors import BadInput
from dicom_node.score.preprocessing import Preprocessing
from training.data import Picture, Splits
from training.recipes import RECIPES
from training.recipes.base import DomainColumn, Phase, Recipe, SplitPlan

CONFIG = "config.json"
HISTORY = "history.json"
TIMING = "timing.json"
WEIGHTS = "weights.safetensors"
CHECKPOINT = "checkpoint.pt"
RATE_CURVE = "lr_find.json"
PLANES = "planes"
"""Folder of prepared pictures and of the lungs on them, among the runs."""

_PACKAGES = ("torch", "torchvision", "monai", "pytorch-ignite", "numpy", "scikit-learn", "pillow")
_CPU_WATTS, _GPU_WATTS = 100.0, 350.0
_KG_PER_KWH = 0.4

_PLAIN: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("batch_size", "seed", "members", "teachers", "imitation_epochs"), int),
    **dict.fromkeys(("lung_attention", "lung_backgrounds", "teacher_weight"), float),
    **dict.fromkeys(("architecture", "weights"), str),
    "domain": lambda word: None if word == "none" else DomainColumn(word),
    "init_from": lambda word: None if word == "none" else word,
}
"""Fields of a recipe that a word sets."""
OVERRIDES = ("epochs", "rate", "side", *_PLAIN)
"""What `--set` may change; `epochs` and `rate` count for every phase."""


def overridden(recipe: Recipe, changes: Mapping[str, str]) -> Recipe:
    """The recipe with simple settings changed.

    Raises
    ------
    BadInput
        A key that is not in `OVERRIDES`, or a value of the wrong kind.
    """
    for key, value in changes.items():
        try:
            recipe = _changed(recipe, key, value)
        except ValueError as error:
            raise BadInput(f"--set {key}={value}: {error}") from error
    return recipe


def _changed(recipe: Recipe, key: str, value: str) -> Recipe:
    if key in ("epochs", "rate"):
        number: dict[str, Any] = {"epochs": int(value)} if key == "epochs" else {}
        if key == "rate":
            number = {"rates": float(value), "find_rate": False}
        phases: tuple[Phase, ...] = tuple(replace(phase, **number) for phase in recipe.phases)
        return replace(recipe, phases=phases)
    if key == "side":
        return replace(recipe, preprocessing=resized(recipe, int(value)))
    if key in _PLAIN:
        changed: dict[str, Any] = {key: _PLAIN[key](value)}
        return replace(recipe, **changed)
    raise BadInput(f"--set {key}: only {', '.join(OVERRIDES)} can be set")


def resized(recipe: Recipe, side: int) -> Preprocessing:
    """The preprocessing of a recipe with another side, in pixels."""
    declared = recipe.preprocessing
    display = tuple(
        stage.model_copy(update={"arguments": {"rows": side, "columns": side}})
        if stage.name == "ResizeAntialiased"
        else stage
        for stage in declared.display
    )
    return declared.model_copy(update={"rows": side, "columns": side, "display": display})


def described(value: Any) -> Any:
    """A recipe, or a part of one, as JSON values; a function by its name."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: described(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): described(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(part) for part in value]
    return value.__name__ if callable(value) else value


def data_digest(splits: Splits) -> str:
    """SHA-256 over split, path, target and 8-bit plane of every picture."""
    digest = hashlib.sha256()
    for part in ("train", "validation", "test"):
        pictures: Sequence[Picture] = getattr(splits, part)
        for picture in sorted(pictures, key=lambda picture: picture.item.path):
            name = f"{part}\0{picture.item.path}\0{picture.target}\0"
            digest.update(name.encode(errors="surrogateescape"))  # file names need not be UTF-8
            digest.update(np.rint(picture.plane * 255).astype(np.uint8).tobytes())
    return digest.hexdigest()


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and processor; no name of a machine or person."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "device": device.type,
        "processor": gpu or _cpu_name(),
        "threads": torch.get_num_threads(),
    }


def _cpu_name() -> str:
    described_cpu = Path("/proc/cpuinfo")
    lines = described_cpu.read_text().splitlines() if described_cpu.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def timing(seconds: float, device: torch.device) -> dict[str, Any]:
    """Duration, and energy and carbon under stated assumptions."""
    watts = _CPU_WATTS
    if device.type == "cuda":
        watts += _GPU_WATTS * max(1, torch.cuda.device_count())
    energy = seconds * watts / 3.6e6
    return {
        "seconds": round(seconds, 1),
        "device": device.type,
        "processor": environment(device)["processor"],
        "watts_assumed": watts,
        "energy_kwh": round(energy, 4),
        "kg_co2_per_kwh_assumed": _KG_PER_KWH,
        "carbon_kg": round(energy * _KG_PER_KWH, 4),
    }


def summed_timing(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What `timing` said of trainings on one processor, together."""
    sums = {
        name: round(sum(timing[name] for timing in each), 4)
        for name in ("seconds", "energy_kwh", "carbon_kg")
    }
    return {**each[0], **sums}


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that is either the old or the new one, also when killed."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False) + "\n")
    part.replace(path)


def read_json(run: Path, name: str) -> Any:
    """Read a JSON file of a run folder."""
    try:
        return json.loads((run / name).read_bytes())
    except (OSError, ValueError) as error:
        raise BadInput(
            f"run folder {run} has no readable {name}: train with `python -m training fit` first"
        ) from error


def made_plainly(recipe: Recipe) -> dict[str, Any]:
    """What `recipe_of` reads where nothing was changed."""
    return made_from(recipe.name, recipe.name, changes={}, fallback=False, own_data=None)


def made_from(
    recipe: str, name: str, *, changes: Mapping[str, str], fallback: bool, own_data: str | None
) -> dict[str, Any]:
    """What `recipe_of` reads: the arguments of `customised`, as JSON values."""
    return {
        "recipe": recipe,
        "name": name,
        "set": dict(changes),
        "fallback": fallback,
        "own_data": own_data,
    }


def recipe_of(run: Path) -> Recipe:
    """The recipe that a run was trained with: its base, changed as its config.json says."""
    made = read_json(run, CONFIG)["made_from"]
    base = RECIPES.get(made["recipe"])
    if base is None:
        raise BadInput(f"run folder {run} was trained with an unknown recipe {made['recipe']!r}")
    return customised(
        base,
        name=made["name"],
        changes=made["set"],
        fallback=made["fallback"],
        own_data=made.get("own_data"),
    )


def customised(
    base: Recipe,
    *,
    name: str | None = None,
    changes: Mapping[str, str],
    fallback: bool,
    own_data: str | None = None,
) -> Recipe:
    """A recipe changed as the command line asks.

    Parameters
    ----------
    name
        Its new name; None keeps it.
    changes
        See `overridden`.
    fallback
        Whether EfficientNet-Lite0 replaces a network whose weights torchvision publishes.
    own_data
        Name of someone's own data, about which the recipe's words on its set say nothing.
    """
    # Only now: loading torchvision's and PyPI's sources takes a second that `list` need not wait.
    from training.pretrained import with_fallback

    recipe = with_fallback(base) if fallback and base.weights == "imagenet" else base
    if own_data is not None:
        recipe = _on_own_data(recipe, own_data)
    return overridden(replace(recipe, name=name or base.name), changes)


def _on_own_data(recipe: Recipe, data: str) -> Recipe:
    return replace(
        recipe,
        data_set=data,
        domain=None,
        # A fold of many asks for many patients; a drawn share works for few as well.
        split=SplitPlan("stratified", validation=0.2, seed=recipe.split.seed),
        data_title=f"{data} (data of whoever trained this model)",
        published={},
        citation="",
        confounded_by="",
        limits=(
            f"Trained on {data} by whoever made this model; nobody else has looked at these data.",
            f"Intended use, codes and settings are those of the recipe {recipe.name} and must be "
            "reviewed before this model is used.",
        ),
        license="as the owner of the training data says",
        license_text=(
            f"Training data: {data}. Its owner decides how these weights may be used.\n"
            f"Initial weights: see the documentation of {recipe.architecture} ({recipe.weights}).\n"
        ),
    )
