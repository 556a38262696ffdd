"""Which pictures are learned from, chosen with and judged by."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from training.data.items import Picture, Splits, copy_marks
from training.errors import TrainingDataError
from training.recipes.base import SplitPlan, keep_undoubted

_LARGEST_GROUP = 8
"""Pictures; larger groups are not validated on: one paper with twenty slices would otherwise decide
what validation says."""
_FEWEST_GROUPS = 2


def make_splits(
    pictures: Sequence[Picture],
    plan: SplitPlan,
    *,
    keep: Callable[[Mapping[str, str]], bool] = lambda row: True,
) -> Splits:
    """Divide pictures as the plan says.

    Pictures of a test split are only ever judged by. Where the source names validation pictures
    itself, those are taken.

    Raises
    ------
    TrainingDataError
        There is nothing to train on, or too few groups to divide.
    """
    test = [picture for picture in pictures if picture.item.split == "test"]
    known = learnable(pictures, keep)
    given = [picture for picture in known if picture.item.split == "validation"]
    if given:
        return Splits([p for p in known if p.item.split != "validation"], given, test)
    divide = {"official": _fold, "stratified": _drawn, "tail": _tail}[plan.kind]
    try:
        train, validation = divide(known, plan)
    except ValueError as error:
        raise TrainingDataError(
            f"{len(known)} pictures cannot be divided into training and validation ({error}); more "
            "pictures or groups of each class are needed"
        ) from error
    return Splits(train, validation, test)


def without_fold(splits: Splits, plan: SplitPlan, *, folds: int, fold: int) -> Splits:
    """The training pictures but one fold, and that fold as validation; no test pictures.

    Raises
    ------
    TrainingDataError
        There are too few groups to divide.
    """
    return make_splits(splits.train, replace(plan, kind="official", folds=folds, fold=fold))


def learnable(
    pictures: Sequence[Picture], keep: Callable[[Mapping[str, str]], bool]
) -> list[Picture]:
    """Kept pictures outside the test split that repeat neither each other nor a test picture."""
    test = (picture.item for picture in pictures if picture.item.split == "test")
    seen = set().union(*map(copy_marks, test))
    kept = []
    for picture in pictures:
        marks = copy_marks(picture.item)
        if picture.item.split == "test" or not keep(picture.item.columns) or marks & seen:
            continue
        seen |= marks
        kept.append(picture)
    return kept


def strict_test(
    test: Sequence[Picture], learned: Sequence[Picture], duplicates: Path | None = None
) -> list[Picture]:
    """Test pictures of undoubted label that are no relatives of what was learned, nor copies.

    Left out: a `label_flag`, a group that was learned from, a `dup_group` shared with any learned
    picture or one before it or, where `duplicates` (a `duplicates.csv`) is there, a copy in another
    split or of one before it.
    """
    groups = {picture.item.group for picture in learned} - {""}
    copies = {picture.item.columns.get("dup_group", "") for picture in learned} - {""}
    twins = _twins(duplicates)
    there = {picture.item.path for picture in test}
    kept: list[Picture] = []
    known: set[str] = set()
    for picture in test:
        item, own = picture.item, picture.item.columns.get("dup_group", "")
        if item.group in groups or own in copies or not keep_undoubted(item.columns):
            continue
        if any(twin not in there or twin in known for twin in twins.get(item.path, ())):
            continue
        kept.append(picture)
        known.add(item.path)
        copies |= {own} - {""}
    return kept


def _twins(duplicates: Path | None) -> dict[str, set[str]]:
    """Paths of the copies of each picture in its own set."""
    found: dict[str, set[str]] = {}
    if duplicates is None or not duplicates.is_file():
        return found
    with duplicates.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["kind"] in {"identical", "near_duplicate"} and row["set_a"] == row["set_b"]:
                found.setdefault(row["path_a"], set()).add(row["path_b"])
                found.setdefault(row["path_b"], set()).add(row["path_a"])
    return found


def _fold(pictures: list[Picture], plan: SplitPlan) -> tuple[list[Picture], list[Picture]]:
    """One fold of groups; the next one in turn where a small class has no picture in it."""
    groups = _groups(pictures, plan)
    sizes = Counter(groups)
    usual = [i for i, group in enumerate(groups) if sizes[group] <= _LARGEST_GROUP]
    if _scarcest(pictures, groups, usual) < plan.folds:
        usual = list(range(len(pictures)))  # e.g. series of slices: every group is large
    folds = min(plan.folds, _scarcest(pictures, groups, usual))
    if folds < _FEWEST_GROUPS:
        raise ValueError(f"a class has fewer than {_FEWEST_GROUPS} groups")
    targets = np.array([pictures[i].target for i in usual])
    divide = StratifiedGroupKFold(folds, shuffle=True, random_state=plan.seed)
    sides = [side for _, side in divide.split(targets, targets, [groups[i] for i in usual])]
    for side in sides[plan.fold % folds :] + sides[: plan.fold % folds]:
        if set(targets[side]) == set(targets):
            return _divided(pictures, {usual[i] for i in side})
    raise ValueError("no fold has pictures of every class")


def _scarcest(pictures: list[Picture], groups: list[str], places: list[int]) -> int:
    """Number of groups of the class that has the fewest."""
    found = {picture.target: set[str]() for picture in pictures}
    for place in places:
        found[pictures[place].target].add(groups[place])
    return min((len(names) for names in found.values()), default=0)


def _drawn(pictures: list[Picture], plan: SplitPlan) -> tuple[list[Picture], list[Picture]]:
    groups = _groups(pictures, plan)
    first = {group: i for i, group in reversed(list(enumerate(groups)))}
    targets = [pictures[i].target for i in first.values()]
    _, chosen = train_test_split(
        list(first), test_size=plan.validation, stratify=targets, random_state=plan.seed
    )
    held = set(chosen)
    return _divided(pictures, {i for i, group in enumerate(groups) if group in held})


def _tail(pictures: list[Picture], plan: SplitPlan) -> tuple[list[Picture], list[Picture]]:
    targets = np.array([picture.target for picture in pictures])
    chosen: set[int] = set()
    for target in np.unique(targets):
        places = np.flatnonzero(targets == target)
        chosen.update(int(i) for i in places[len(places) - round(len(places) * plan.validation) :])
    return _divided(pictures, chosen)


def _groups(pictures: list[Picture], plan: SplitPlan) -> list[str]:
    """Group of each picture; a picture without one, or of an ungrouped plan, stands alone."""
    return [(plan.grouped and p.item.group) or f"alone:{p.item.path}" for p in pictures]


def _divided(pictures: list[Picture], chosen: set[int]) -> tuple[list[Picture], list[Picture]]:
    if not chosen or len(chosen) == len(pictures):
        raise ValueError("one side would be empty")
    train = [picture for i, picture in enumerate(pictures) if i not in chosen]
    return train, [pictures[i] for i in sorted(chosen)]
