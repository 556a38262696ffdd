"""What each training of a run learns from, tried before the first of them begins."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from dicom_node.errors import BadInput
from training.data import Splits, without_fold
from training.domains import LeftOut, left_out
from training.errors import TrainingError
from training.recipes.base import Recipe

_FEWEST = 2
"""Training pictures of each class."""


def check_pictures(recipe: Recipe, splits: Splits) -> None:
    """Refuse too few pictures of a label.

    Raises
    ------
    TrainingError
        A label has fewer than two training pictures, or no validation picture.
    """
    for part, pictures, fewest in (
        ("training", splits.train, _FEWEST),
        ("validation", splits.validation, 1),
    ):
        counts = Counter(picture.target for picture in pictures)
        for index, label in enumerate(recipe.labels):
            if counts[index] < fewest:
                raise TrainingError(
                    f"{counts[index]} {part} pictures of {label!r}, {fewest} or more are needed: "
                    "add pictures of that label, or change the recipe's split"
                )


def teacher_splits(recipe: Recipe, splits: Splits) -> list[Splits]:
    """The training pictures without the first fold, without the second, ...: one a teacher.

    Raises
    ------
    TrainingError
        A label is in too few groups.
    """
    folds = recipe.teachers
    try:
        parts = [without_fold(splits, recipe.split, folds=folds, fold=k) for k in range(folds)]
        for part in parts:
            check_pictures(recipe, part)
    except BadInput as error:
        raise TrainingError(
            f"the training pictures cannot be divided among {folds} teachers ({error}): add groups "
            "of each label, or train without (--set teachers=0)"
        ) from error
    return parts


def without_domains(recipe: Recipe, splits: Splits, run: Path) -> list[LeftOut]:
    """See `training.domains.left_out`.

    Raises
    ------
    TrainingError
        No picture names a domain, imitation would see every domain, or too little is left without
        one of them.
    """
    without = left_out(recipe, splits, run)
    problems = []
    if recipe.domain is not None and not without:
        problems.append("no training picture names a domain")
    if without and recipe.imitation_epochs:
        problems.append("imitation would see every domain (--set imitation_epochs=0)")
    for left in without:
        try:
            check_pictures(left.recipe, left.splits)
        except TrainingError as error:
            problems.append(f"without {left.name}{_also_elsewhere(splits, left)}: {error}")
    if problems:
        raise TrainingError(
            f"domains cannot be left out in turn: {'; '.join(problems)}. Pictures that name no "
            "domain are always learned from; --set domain=none trains without domains"
        )
    return without


def _also_elsewhere(splits: Splits, left: LeftOut) -> str:
    """How many pictures go besides those of the domain, as its patients are in other ones, too."""
    known = len(splits.train) + len(splits.validation)
    rest = len(left.splits.train) + len(left.splits.validation)
    also = known - rest - len(left.pictures)
    return f" and without the {also} pictures that its patients have elsewhere" if also else ""
