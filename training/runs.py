"""What a run leaves in its folder, and how a run is read again."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from dicom_node.errors import BadInput
from training.changes import customised
from training.data import Picture, Splits
from training.recipes import RECIPES
from training.recipes.base import Recipe

CONFIG = "config.json"
HISTORY = "history.json"
TIMING = "timing.json"
WEIGHTS = "weights.safetensors"
CHECKPOINT = "checkpoint.pt"
RATE_CURVE = "lr_find.json"
_PARTS = ("member[0-9]*", "teacher[0-9]*", "without[0-9]*", "validation")
"""Folders of trainings and figures inside a run."""
PLANES = "planes"
"""Folder of prepared pictures and of the lungs on them, among the runs."""

_PACKAGES = ("torch", "torchvision", "monai", "pytorch-ignite", "numpy", "scikit-learn", "pillow")
_CPU_WATTS, _GPU_WATTS = 100.0, 350.0
_KG_PER_KWH = 0.4


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


def begin(folders: Sequence[Path], *, resume: bool) -> None:
    """Make a run's folder; without `resume` nothing in it may pass for what is trained now.

    What was imitated stays: it is taken again if it fits.

    Parameters
    ----------
    folders
        The run's, and those inside it whose trainings count as unfinished from now on.
    """
    run = folders[0]
    run.mkdir(parents=True, exist_ok=True)
    if not resume:
        for name in (CONFIG, WEIGHTS, CHECKPOINT, HISTORY):
            (run / name).unlink(missing_ok=True)
        for part in _PARTS:
            for folder in run.glob(part):
                shutil.rmtree(folder)
    for folder in folders:
        (folder / TIMING).unlink(missing_ok=True)  # says that it is finished


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
    recipe: str,
    name: str,
    *,
    changes: Mapping[str, str],
    fallback: bool,
    own_data: str | None,
    group_column: str | None = None,
    label_map: str | None = None,
) -> dict[str, Any]:
    """What `recipe_of` reads: the arguments of `customised`, as JSON values.

    `group_column` and `label_map` are those of the command, without which the data are others.
    """
    return {
        "recipe": recipe,
        "name": name,
        "set": dict(changes),
        "fallback": fallback,
        "own_data": own_data,
        "group_column": group_column,
        "label_map": label_map,
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
