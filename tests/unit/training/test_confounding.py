"""The measure of confounding sees what is hidden in the border, and nothing where nothing is."""

from __future__ import annotations

import numpy as np
import pytest

from dicom_node.errors import BadInput
from dicom_node.score.transforms import FloatArray
from training.changes import overridden
from training.confounding import border_only, confounding, lungs_masked_out, share_with_interval
from training.data import Item
from training.recipes import RECIPES

RECIPE = overridden(RECIPES["cxr_covid3"], {"side": "32"})


class Drawn:
    """Noise whose border is as bright as the class says, by so much; 3 pictures a patient."""

    def __init__(self, cue: float, *, per_class: int = 30, test: int = 10) -> None:
        self.name = "drawn"
        self.problems: tuple[str, ...] = ()
        self._cue = cue
        self.items = tuple(
            Item(
                f"{split}/{label}/{number}.png",
                label,
                split,
                "",
                {"patient_key": f"{split}{label}{number // 3}"},
            )
            for split, count in (("train", per_class), ("test", test))
            for label in ("a", "b")
            for number in range(count)
        )

    def read(self, item: Item) -> FloatArray:
        """(40, 48) in [0, 255]."""
        seed = self.items.index(item)
        picture = np.random.default_rng(seed).uniform(0, 200, (40, 48)).astype(np.float32)
        if item.label == "b":
            picture[:4] += self._cue
        return picture


def test_a_cue_in_the_border_is_found_and_chance_is_chance() -> None:
    telling, silent = (confounding(Drawn(cue), RECIPE) for cue in (55.0, 0.0))
    for result, (low, high) in ((telling, (0.9, 1.0)), (silent, (0.2, 0.8))):
        assert result["labels"] == ["a", "b"]
        assert result["chance"] == {"train": 0.5, "test": 0.5}
        figure = result["accuracy"]["border of 10 % alone"]["32 x 32 pixels"]["train"]
        assert figure["n"] == 60
        assert low <= figure["accuracy"] <= high
        assert figure["ci95"][0] <= figure["accuracy"] <= figure["ci95"][1]
    assert telling["accuracy"]["trivial numbers"]["numbers"]["test"]["accuracy"] >= 0.9
    assert set(telling["accuracy"]) == {
        "whole picture",
        "border of 10 % alone",
        "central 70 % masked out",
        "trivial numbers",
    }


def test_without_a_test_split_only_training_is_measured() -> None:
    result = confounding(Drawn(55.0, test=0), RECIPE)
    assert set(result["chance"]) == {"train"}
    assert set(result["accuracy"]["trivial numbers"]["numbers"]) == {"train"}


def test_masks_hide_what_they_say() -> None:
    picture = np.ones((100, 200), np.float32)
    assert border_only(picture).sum() == 100 * 200 - 80 * 160
    assert lungs_masked_out(picture).sum() == 100 * 200 - 70 * 140
    assert picture.all()


def test_the_interval_is_exact() -> None:
    # Clopper and Pearson: (alpha / 2) ** (1 / n) at n of n.
    share = share_with_interval(np.ones(10, np.bool_))
    assert share == {"n": 10, "accuracy": 1.0, "ci95": [round(0.025**0.1, 4), 1.0]}


def test_one_class_is_an_error_that_names_the_set() -> None:
    source = Drawn(0.0)
    source.items = tuple(item for item in source.items if item.label == "a")
    with pytest.raises(BadInput, match="drawn: no training images of two classes"):
        confounding(source)
