"""Which pictures are learned from: groups stay together, copies and test pictures stay out."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from training.data import Item, Picture, make_splits, parse_label_map, strict_test
from training.errors import TrainingDataError
from training.recipes.base import SplitPlan

PLANE = np.zeros((1, 4, 4), np.float32)


def picture(number: int, *, split: str = "train", group: str = "", **columns: str) -> Picture:
    path = f"{split}/{number}.png"
    item = Item(path, "ab"[number % 2], split, group or f"g{number}", columns)
    return Picture(item, PLANE, number % 2)


def paths(pictures: list[Picture]) -> set[str]:
    return {p.item.path for p in pictures}


def test_a_group_is_never_on_both_sides() -> None:
    pictures = [picture(i, group=f"patient{i // 4}") for i in range(80)]

    for kind in ("official", "stratified"):
        splits = make_splits(pictures, SplitPlan(kind, folds=4, seed=1))

        groups = [{p.item.group for p in part} for part in (splits.train, splits.validation)]
        assert groups[0]
        assert groups[1]
        assert not groups[0] & groups[1]
        assert len(splits.train) + len(splits.validation) == 80


def test_each_fold_is_another_one_and_together_they_are_everything() -> None:
    pictures = [picture(i) for i in range(60)]

    folds = [
        paths(make_splits(pictures, SplitPlan("official", folds=3, fold=f)).validation)
        for f in range(3)
    ]

    assert sum(map(len, folds)) == 60
    assert set.union(*folds) == paths(pictures)


def test_a_paper_with_many_slices_stays_in_training() -> None:
    paper = [picture(2 * i, group="paper") for i in range(9)]
    others = [picture(100 + i) for i in range(40)]

    for fold in range(4):
        splits = make_splits([*paper, *others], SplitPlan("official", folds=4, fold=fold))
        assert paths(paper) <= paths(splits.train)


def test_copies_of_test_pictures_and_of_each_other_are_not_learned_from() -> None:
    pictures = [picture(i) for i in range(40)]
    pictures += [picture(50, split="test", dup_group="d1"), picture(51, dup_group="d1")]
    pictures += [picture(60, dup_group="d2"), picture(61, dup_group="d2")]

    splits = make_splits(pictures, SplitPlan("stratified"))

    learned = paths(splits.train) | paths(splits.validation)
    assert "train/51.png" not in learned
    assert {"train/60.png", "train/61.png"} & learned == {"train/60.png"}
    assert paths(splits.test) == {"test/50.png"}


def test_rows_that_the_recipe_does_not_keep_are_left_out() -> None:
    pictures = [picture(i, label_flag="doubt" if i < 4 else "") for i in range(40)]

    splits = make_splits(
        pictures, SplitPlan("tail"), keep=lambda columns: not columns["label_flag"]
    )

    assert len(splits.train) + len(splits.validation) == 36


def test_the_tail_is_the_last_share_of_each_class() -> None:
    splits = make_splits([picture(i) for i in range(20)], SplitPlan("tail", validation=0.2))

    assert paths(splits.validation) == {f"train/{i}.png" for i in range(16, 20)}


def test_validation_pictures_that_the_source_names_are_taken() -> None:
    named = [picture(100 + i, split="validation") for i in range(6)]

    splits = make_splits([picture(i) for i in range(20)] + named, SplitPlan("official"))

    assert paths(splits.validation) == paths(named)
    assert len(splits.train) == 20


def test_too_few_groups_are_an_error_that_says_so() -> None:
    with pytest.raises(TrainingDataError, match="more pictures or groups"):
        make_splits([picture(0), picture(1)], SplitPlan("official", folds=5))


def test_strict_test_leaves_out_relatives_doubts_and_copies(tmp_path: Path) -> None:
    learned = [picture(1, group="patient", dup_group="d1")]
    test = [
        picture(10, split="test"),
        picture(11, split="test", group="patient"),
        picture(12, split="test", dup_group="d1"),
        picture(13, split="test", label_flag="doubt"),
        picture(14, split="test"),
        *(picture(number, split="test", dup_group="d2") for number in (15, 16)),
        *(picture(number, split="test") for number in (17, 18)),
    ]
    table = tmp_path / "duplicates.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "set_a", "path_a", "split_a", "set_b", "path_b", "split_b"])
        writer.writerow(["near_duplicate", "s", "train/1.png", "train", "s", "test/14.png", "test"])
        writer.writerow(["identical", "s", "test/18.png", "test", "s", "test/17.png", "test"])
        writer.writerow(["phash_only", "s", "test/10.png", "test", "s", "test/17.png", "test"])
        writer.writerow(["near_duplicate", "s", "test/10.png", "test", "t", "other.png", "train"])

    of_each = {"test/10.png", "test/15.png", "test/17.png"}
    assert paths(strict_test(test, learned, table)) == of_each, "the first of those that are alike"
    assert paths(strict_test(test, learned)) == of_each | {"test/14.png", "test/18.png"}


def test_label_maps() -> None:
    assert parse_label_map("normal=normal, covid=pneumonia") == {
        "normal": "normal",
        "covid": "pneumonia",
    }
    for bad in ("normal", "=x", "a=b,a=c", ""):
        with pytest.raises(TrainingDataError, match="label map"):
            parse_label_map(bad)
