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
from dicom_node.score.networks import build
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
        All other training and validation pictures.
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
    parts = (splits.train, splits.validation)
    domains = [[recipe.domain(picture.item.columns) for picture in part] for part in parts]
    result = []
    for number, name in enumerate(sorted({name for names in domains for name in names} - {""})):
        pairs = [
            list(zip(part, names, strict=True)) for part, names in zip(parts, domains, strict=True)
        ]
        train, validation = ([p for p, own in pair if own != name] for pair in pairs)
        alone = replace(
            recipe,
            seed=mixed_seed(recipe.seed, _FIRST_SEED + number),
            domain=None,
            members=1,
            teachers=0,
        )
        result.append(
            LeftOut(
                name,
                alone,
                run / f"without{number + 1}",
                Splits(train, validation, []),
                [picture for pair in pairs for picture, own in pair if own == name],
            )
        )
    return result


@dataclass(frozen=True, slots=True, eq=False)
class Unseen:
    """What a network made of a domain from which it learned nothing.

    Attributes
    ----------
    name
        Of the domain.
    outputs
        (N, K) calibrated probabilities: of the domain's pictures, of validation pictures of the
        labels that the domain has none of, and of a mild variation of each.
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


def unseen(left: LeftOut) -> Unseen:
    """Let the network that was trained without a domain score it.

    It is calibrated on its own validation pictures, as the recipe's network is on its own, so that
    probabilities can be compared.

    Raises
    ------
    BadInput
        It was not trained, or validation pictures of some label are missing without the domain.
    """
    recipe = left.recipe
    if not (left.run / runs.WEIGHTS).is_file():
        raise BadInput(
            f"run folder {left.run}: the network without {left.name} is missing; finish the run "
            "with `python -m training fit --resume`"
        )
    network = build(recipe.architecture, len(recipe.outputs))
    load_run(network, left.run / runs.WEIGHTS)
    pipeline = Pipeline(recipe.preprocessing)
    at_home = also_varied(left.splits.validation, recipe.seed)
    home_logits = predict_logits(network, at_home, pipeline)
    home_targets = _targets(at_home)
    calibration = calibrate(home_logits, home_targets, recipe.function)
    strangers = also_varied(left.pictures, recipe.seed)
    targets = _targets(strangers)
    lacking = ~np.isin(home_targets, targets)
    logits = np.concatenate([predict_logits(network, strangers, pipeline), home_logits[lacking]])
    return Unseen(
        left.name,
        probabilities(logits, calibration),
        np.concatenate([targets, home_targets[lacking]]),
        np.arange(len(logits)) < len(left.pictures),
    )


def _targets(pictures: Sequence[Picture]) -> Indices:
    return np.array([picture.target for picture in pictures], dtype=np.int64)
