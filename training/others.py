"""Pictures of other data sets that a model's scope gate ought to refuse; never learned from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dicom_node.score.transforms import FloatArray, Pipeline
from training.data import open_source
from training.data.pictures import prepared_plane
from training.recipes.base import Recipe

MOST = 100
"""Pictures taken of a set."""
_SEED = 20261121

_CT = ("CT slices (covid_ct)", "covid_ct", None)
_ADULTS = ("films of adults (covid3_cxr, covid)", "covid3_cxr", "covid")
_CHILDREN = ("radiographs (pneumonia_cxr)", "pneumonia_cxr", None)
_OTHERS: dict[str, tuple[tuple[str, str, str | None], ...]] = {
    "pneumonia_cxr": (_ADULTS, _CT),
    "covid3_cxr": (_CT,),
    "covid25_cxr": (_CT,),
    "covid_ct": (_CHILDREN,),
}
"""Data set of a recipe -> name, set and label (None: any) of what is no such picture."""


def other_sets(recipe: Recipe, folder: Path) -> dict[str, list[FloatArray]]:
    """Planes (1, rows, columns) in [0, 1] by name, of those published sets that are in `folder`."""
    pipeline = Pipeline(recipe.preprocessing)
    result = {}
    for name, data_set, label in _OTHERS.get(recipe.data_set, ()):
        path = folder / f"{data_set}.tar"
        if not path.is_file():
            continue
        source = open_source(path)
        items = [item for item in source.items if label in (None, item.label)]
        chosen = np.random.default_rng(_SEED).permutation(len(items))[:MOST]
        result[name] = [prepared_plane(source, items[index], pipeline) for index in chosen]
    return result
