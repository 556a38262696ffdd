"""Many splits of one tiny set: sure where the pictures are clear, scattered where they are not."""

from __future__ import annotations

import numpy as np
import pytest

from dicom_node.errors import BadInput
from dicom_node.score.transforms import FloatArray
from training.changes import customised
from training.data import Item
from training.recipes import RECIPES
from training.repeated import repeated

# The smallest side that leaves a window of 4 x 4 to the published head.
RECIPE = customised(RECIPES["vgg16_covid_cxr"], changes={"side": "128"}, fallback=True)


class Drawn:
    """Ten bright and ten dark pictures, or twenty of mere noise."""

    def __init__(self, *, clear: bool, split: bool) -> None:
        self.name = "drawn"
        self.problems: tuple[str, ...] = ()
        self._clear = clear
        self.items = tuple(
            Item(
                f"{label}/{number}.png",
                label,
                ("test" if number < 2 else "train") if split else "",
                "",
                {},
            )
            for label in ("normal", "covid")
            for number in range(10)
        )

    def read(self, item: Item) -> FloatArray:
        """(40, 40) in [0, 255]."""
        picture = np.random.default_rng(self.items.index(item)).uniform(0, 255, (40, 40))
        if self._clear and item.label == "covid":
            picture[:, :20] = 0
        return picture.astype(np.float32)


@pytest.mark.parametrize("split", [True, False])
def test_clear_pictures_are_told_apart_in_every_split(split: bool) -> None:
    result = repeated(Drawn(clear=True, split=split), splits=3, seed=1, recipe=RECIPE)
    assert result["n"] == 20
    assert result["n_test"] == 4
    assert result["number_of_splits"] == 3
    assert result["splits"]["accuracy"] == {
        "mean": 1.0,
        "ci95": [1.0, 1.0],
        "worst": 1.0,
        "best": 1.0,
    }
    single = result["published_split"]["sensitivity"]
    assert single["value"] == 1.0
    assert single["n"] == 2
    assert single["ci95"][0] < 0.2


def test_noise_scatters_and_the_seed_decides() -> None:
    source = Drawn(clear=False, split=True)
    first, again = (repeated(source, splits=6, seed=2, recipe=RECIPE) for _ in range(2))
    assert first == again
    accuracy = first["splits"]["accuracy"]
    assert accuracy["worst"] <= accuracy["ci95"][0] <= accuracy["mean"] <= accuracy["ci95"][1]
    assert accuracy["worst"] < accuracy["best"]
    assert accuracy["mean"] < 0.9


def test_three_labels_are_an_error() -> None:
    source = Drawn(clear=True, split=True)
    source.items = (*source.items, Item("x.png", "other", "train", "", {}))
    with pytest.raises(BadInput, match="drawn: has the labels covid, normal, other"):
        repeated(source, seed=1)
