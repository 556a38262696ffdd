"""From a run and the data that it was trained on to a model folder."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from dicom_node.errors import BadInput
from dicom_node.score.bundle import METADATA, WEIGHTS
from training.cli.loading import Wanted, load_splits
from training.cli.options import warn
from training.data import Source, data_dir
from training.recipes.base import Recipe
from training.runs import CONFIG, TIMING, data_digest, read_json, recipe_of

_VERSION = re.compile(r"\d{1,5}\.\d{1,5}\.\d{1,4}")
_CONFOUNDED = frozenset({"covid3_cxr", "covid25_cxr"})
"""Sets whose card says first what one can guess the class from without the lungs."""


def export_run(
    run: Path, wanted: Wanted, folder: Path, version: str | None = None
) -> dict[str, Any]:
    """Write the model folder of a run; warns where new weights come under an old version.

    Raises
    ------
    BadInput
        The data are not those that the run was trained on.
    """
    from training.export import VERSION, export
    from training.others import other_sets

    recipe = recipe_of(run)
    config = read_json(run, CONFIG)
    made = config["made_from"]
    if made["name"] != folder.name:
        raise BadInput(f"{run} is the run of {made['name']}: export it under that name")
    if not (run / TIMING).is_file():
        raise BadInput(f"{run} is not finished: `python -m training fit --resume` goes on with it")
    own = made.get("own_data")
    if own and wanted.data is None:
        raise BadInput(f"{run.name} was trained on {own}: name it with --data")
    before = _sealed(folder)
    version = _checked(version or VERSION, before, folder)
    wanted = replace(
        wanted,
        group_column=wanted.group_column or made.get("group_column"),
        label_map=wanted.label_map or made.get("label_map"),
    )
    source = wanted.source(recipe)
    splits = load_splits(recipe, wanted, source)
    if data_digest(splits) != config["data"]["digest"]:
        raise BadInput(
            f"{run.name} was trained on other pictures or another division of them than "
            f"{source.name} gives now: name the same data and options as for `fit`, or train again"
        )
    report = export(
        recipe,
        splits,
        run,
        folder,
        version=version,
        others=other_sets(recipe, data_dir()),
        confounding=_confounding(recipe, source),
    )
    now = _sealed(folder)
    if before and now and before[0] == now[0] and before[1] != now[1]:
        warn(
            f"{folder.name} {now[0]} had other weights before: a node that has scored a "
            "study with them will not score it again; give --version a new one"
        )
    return report


def _checked(version: str, before: tuple[str, str] | None, folder: Path) -> str:
    """The version, if it has three numbers and is not below that of the model that is there."""
    if not _VERSION.fullmatch(version):
        raise BadInput(f"--version {version}: write three numbers, for example 1.0.0")
    there = before[0] if before and _VERSION.fullmatch(before[0]) else "0.0.0"
    if _numbers(version) < _numbers(there):
        raise BadInput(
            f"{folder} is version {there}, which {version} would not replace: give --version a "
            "higher one (a node scores a study once with each)"
        )
    return version


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _sealed(folder: Path) -> tuple[str, str] | None:
    """Version and SHA-256 of the weights that a model folder states; None if it states none."""
    try:
        content = json.loads((folder / METADATA).read_bytes())
        return content["version"], content["dicom_node"]["sha256"][WEIGHTS]
    except (OSError, ValueError, KeyError):
        return None


def _confounding(recipe: Recipe, source: Source) -> dict[str, Any] | None:
    if recipe.data_set not in _CONFOUNDED:
        return None
    from training.confounding import confounding

    return confounding(source)
