"""The network with which a training begins: published weights, a file, or another run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dicom_node.errors import BadInput
from dicom_node.score.networks import StagedNetwork
from training.pretrained import initial_network, start_from
from training.recipes import RECIPES
from training.recipes.base import Recipe
from training.runs import WEIGHTS


def beginning(
    recipe: Recipe, others: Path, *, weights_file: Path | None = None, sha256: str | None = None
) -> tuple[StagedNetwork, str | None]:
    """The recipe's network with its initial weights, and the run whose backbone it has.

    Parameters
    ----------
    others
        Folder of the runs, among which that of `Recipe.init_from` may be.
    weights_file, sha256
        See `training.pretrained.initial_file`.

    Raises
    ------
    BadInput
        See `training.pretrained.initial_network`.
    """
    network = initial_network(recipe, weights_file=weights_file, sha256=sha256)
    weights = _of_run(recipe, others)
    if weights is None or not weights.is_file():
        return network, None
    start_from(network, weights)
    return network, recipe.init_from


def begins_elsewhere(
    recipe: Recipe, others: Path, made: Mapping[str, Any], *, weights_file: Path | None = None
) -> str | None:
    """What to say where the run that the recipe names is not there; None where it is.

    Parameters
    ----------
    made
        See `training.runs.made_from`.

    Raises
    ------
    BadInput
        The run is needed, or it would hide the weights of `weights_file`.
    """
    weights = _of_run(recipe, others)
    if weights is None:
        return None
    if weights.is_file():
        if weights_file is not None:
            raise BadInput(
                f"{recipe.name} begins at the run {recipe.init_from}, not at {weights_file.name}: "
                "leave out --weights-file, or begin there (--set init_from=none)"
            )
        return None
    what = f"{recipe.name} begins at the run {recipe.init_from}, and {weights} is not there"
    own_set = made.get("own_data") is None and recipe.init_from in RECIPES
    if own_set or "init_from" in made["set"]:
        raise BadInput(
            f"{what}: train that first (python -m training fit {recipe.init_from}), or begin at "
            "the published weights (--set init_from=none)"
        )
    weights_there = weights_file.name if weights_file else repr(recipe.weights)
    return f"{what}: training begins at the weights {weights_there} instead"


def _of_run(recipe: Recipe, others: Path) -> Path | None:
    return others / recipe.init_from / WEIGHTS if recipe.init_from else None
