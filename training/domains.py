"""Thresholds for pictures of domains from which nothing was learned: other sites, scanners, years.

Validation pictures come from where the training pictures come from, so a threshold that is chosen
on them promises too much elsewhere. Therefore one more network is trained without each domain that
a recipe tells apart, and thresholds are chosen on what these networks make of what they never saw
(leave-one-domain-out; Gulrajani and Lopez-Paz 2021, arXiv:2007.01434).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dicom_node.errors import BadInput
from dicom_node.score.networks import StagedNetwork, build
from dicom_node.score.transforms import Pipeline
from training import runs
from training.batches import mixed_seed, predict_logits
from training.calibrate import calibrate, probabilities
from training.confounding import share_with_interval
from training.data import Picture, Splits
from training.judged import Array, Flags, Indices
from training.pretrained import load_run
from training.recipes.base import Recipe
from training.variations import also_varied

_FIRST_SEED = 2000
"""Away from the numbers of a soup's members and of teachers."""


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """A domain, and how a network is trained without it.

    Attributes
    ----------
    name
        Of the domain.
    recipe
        Of the network: alone, without teachers.
    run
        Folder in which it is trained.
    splits
        All other training and validation pictures, but none of a patient of the domain.
    pictures
        Those of the domain.
    """

    name: str
    recipe: Recipe
    run: Path
    splits: Splits
    pictures: list[Picture]


def left_out(recipe: Recipe, splits: Splits, run: Path) -> list[LeftOut]:
    """Each domain of the training and validation pictures in turn, by name; none without domains.

    Parameters
    ----------
    run
        Folder of the recipe's own run, of which those of the others are parts.
    """
    if recipe.domain is None:
        return []
    known = [*splits.train, *splits.validation]
    by_name: dict[str, list[Picture]] = {}
    for picture in known:
        by_name.setdefault(recipe.domain(picture.item.columns), []).append(picture)
    names = sorted(by_name.keys() - {""})
    return [
        LeftOut(
            name,
            replace(
                recipe,
                seed=mixed_seed(recipe.seed, _FIRST_SEED + number),
                domain=None,
                members=1,
                teachers=0,
            ),
            run / f"without{number + 1}",
            _without(splits, by_name[name]),
            by_name[name],
        )
        for number, name in enumerate(names)
    ]


def _without(splits: Splits, pictures: Sequence[Picture]) -> Splits:
    gone = set(pictures)
    patients = {picture.item.group for picture in pictures} - {""}

    def rest(part: Sequence[Picture]) -> list[Picture]:
        return [p for p in part if p not in gone and p.item.group not in patients]

    return Splits(rest(splits.train), rest(splits.validation), [])


@dataclass(frozen=True, slots=True, eq=False)
class Unseen:
    """What a network made of a domain from which it learned nothing.

    Attributes
    ----------
    name
        Of the domain.
    outputs
        (N, K) calibrated probabilities: of the domain's pictures, of validation pictures of those
        labels that no domain has, and of a mild variation of each.
    targets
        (N,) places of their labels.
    own
        (N,) which of them are the domain's, not varied.
    """

    name: str
    outputs: Array
    targets: Indices
    own: Flags

    def described(self, recipe: Recipe, threshold: float) -> dict[str, Any]:
        """How many pictures the domain has, and the share that the main finding calls right."""
        found = self.outputs[self.own, recipe.outputs.index(recipe.positive)] >= threshold
        there = self.targets[self.own] == recipe.labels.index(recipe.positive)
        return {**share_with_interval(found == there), "n_positive": int(there.sum())}


def unseen(parts: Sequence[LeftOut]) -> list[Unseen]:
    """Let the networks that were trained without a domain each score it.

    Each is calibrated on its own validation pictures, as the recipe's network is on its own, so
    that probabilities can be compared.

    Raises
    ------
    BadInput
        A training is missing, not finished, or was one without other pictures.
    """
    there = {picture.target for left in parts for picture in left.pictures}
    return [_scored(left, there) for left in parts]


def _scored(left: LeftOut, there: set[int]) -> Unseen:
    recipe, network = left.recipe, _trained(left)
    pipeline = Pipeline(recipe.preprocessing)
    at_home = also_varied(left.splits.validation, recipe.seed)
    home_logits, home_targets = predict_logits(network, at_home, pipeline), _targets(at_home)
    calibration = calibrate(home_logits, home_targets, recipe.function)
    strangers = also_varied(left.pictures, recipe.seed)
    nowhere = ~np.isin(home_targets, list(there))
    logits = np.concatenate([predict_logits(network, strangers, pipeline), home_logits[nowhere]])
    return Unseen(
        left.name,
        probabilities(logits, calibration),
        np.concatenate([_targets(strangers), home_targets[nowhere]]),
        np.arange(len(logits)) < len(left.pictures),
    )


def _trained(left: LeftOut) -> StagedNetwork:
    if not (left.run / runs.TIMING).is_file():
        raise BadInput(
            f"run folder {left.run}: the training without domain {left.name} is not finished; "
            "`python -m training fit --resume` does it"
        )
    if runs.read_json(left.run, runs.CONFIG)["data"]["digest"] != runs.data_digest(left.splits):
        raise BadInput(
            f"run folder {left.run}: it is not what was trained without domain {left.name}, for "
            "the domains of the data have changed; train again"
        )
    network = build(left.recipe.architecture, len(left.recipe.outputs))
    load_run(network, left.run / runs.WEIGHTS)
    return network


def _targets(pictures: Sequence[Picture]) -> Indices:
    return np.array([picture.target for picture in pictures], dtype=np.int64)
