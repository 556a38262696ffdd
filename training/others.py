"""Pictures of other data sets to try a model's scope gate on; never learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dicom_node.score.transforms import FloatArray, Pipeline
from training.data import Item, open_source
from training.data.pictures import prepared_plane
from training.recipes.base import Recipe

MOST = 100
"""Pictures taken of a set."""
_SEED = 20261121


@dataclass(frozen=True, slots=True)
class Others:
    """Pictures of another data set.

    Attributes
    ----------
    name
        What they are.
    planes
        Each (1, rows, columns) float32 in [0, 1].
    outside
        Whether the gate ought to refuse them.
    """

    name: str
    planes: Sequence[FloatArray]
    outside: bool = True


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    data_set: str
    labels: frozenset[str] = frozenset()  # empty: any
    split: str = ""  # empty: any
    outside: bool = True

    def holds(self, item: Item) -> bool:
        labelled = not self.labels or item.label in self.labels
        return labelled and self.split in ("", item.split)


_CT = _Part("CT slices (covid_ct)", "covid_ct")
_ADULTS = _Part("films of adults (covid3_cxr, covid)", "covid3_cxr", frozenset({"covid"}))
_LARGER = _Part(
    "films of children that were stored larger (covid3_cxr, official test split)",
    "covid3_cxr",
    frozenset({"normal", "pneumonia_bac"}),
    split="test",
    outside=False,
)
_CHILDREN = _Part("radiographs (pneumonia_cxr)", "pneumonia_cxr")
_OTHERS: dict[str, tuple[_Part, ...]] = {
    "pneumonia_cxr": (_LARGER, _ADULTS, _CT),
    "covid3_cxr": (_CT,),
    "covid25_cxr": (_CT,),
    "covid_ct": (_CHILDREN,),
}
"""By the data set of a recipe."""


def other_sets(recipe: Recipe, folder: Path) -> list[Others]:
    """What is to be tried, of those published sets that are in `folder`.

    Pictures that ought to pass are of patients from whom the recipe keeps off, since some published
    sets are copies of parts of others.
    """
    pipeline = Pipeline(recipe.preprocessing)
    result = []
    for part in _OTHERS.get(recipe.data_set, ()):
        path = folder / f"{part.data_set}.tar"
        if not path.is_file():
            continue
        source = open_source(path)
        items = [item for item in source.items if part.holds(item)]
        if not part.outside:
            items = [item for item in items if not recipe.keep(item.columns)]
        chosen = np.random.default_rng(_SEED).permutation(len(items))[:MOST]
        planes = [prepared_plane(source, items[index], pipeline) for index in chosen]
        if planes:
            result.append(Others(part.name, planes, part.outside))
    return result
