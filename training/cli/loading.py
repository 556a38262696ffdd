"""From the words of a command to labelled, checked and divided pictures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from dicom_node.errors import BadInput
from dicom_node.score.manifest import IntendedUse
from dicom_node.score.transforms import Pipeline
from training.cli.options import warn, warn_of_left_out
from training.data import (
    Picture,
    Source,
    Splits,
    load_pictures,
    make_splits,
    open_source,
    parse_label_map,
)
from training.data.checks import check
from training.data.manifests import usual_group_column
from training.headers import headers_of, refused
from training.recipes.base import Recipe
from training.runs import PLANES

_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which data a command is to read, in its own words.

    Attributes
    ----------
    data
        A person's own; None is the recipe's set.
    group_column, label_map
        As on the command line.
    runs
        Prepared pictures are kept in a folder of it.
    """

    data: str | None
    group_column: str | None
    label_map: str | None
    runs: Path

    def source(self, recipe: Recipe) -> Source:
        """Open the data."""
        if self.data is None:
            return open_source(Path(recipe.data_set), group_column=recipe.group_column)
        return open_source(Path(self.data), group_column=self.group_column)

    def own_data(self, source: Source) -> str | None:
        """Name of a person's own data; None for the recipe's set."""
        return None if self.data is None else source.name

    def grouping(self, recipe: Recipe, splits: Splits) -> str | None:
        """Column by which the data were grouped; None where none did."""
        if self.data is None:
            return recipe.group_column
        pictures = (*splits.train, *splits.validation, *splits.test)
        columns = {name for picture in pictures for name in picture.item.columns}
        return self.group_column or usual_group_column(columns)


def label_map_of(text: str | None) -> dict[str, str] | None:
    """The mapping that `--label-map` states."""
    return None if text is None else parse_label_map(text)


def label_map_for(source: Source, split: str | None, text: str | None) -> dict[str, str] | None:
    """The mapping that `--label-map` states; warns of labels that no picture of the split has."""
    from training.predict import unused_labels

    label_map = label_map_of(text)
    for unused in unused_labels(source, split, label_map):
        warn(unused)
    return label_map


def load_splits(recipe: Recipe, wanted: Wanted, source: Source) -> Splits:
    """Check, prepare and divide a source's pictures for a recipe; warnings go to standard error.

    Raises
    ------
    BadInput
        With every problem of the data, before anything is trained.
    """
    label_map = label_map_of(wanted.label_map)
    warnings = check(
        source,
        recipe.labels,
        label_map=label_map,
        # The published sets have them, and say so in their cards.
        published=wanted.data is None,
        progress=True,
    )
    for warning in warnings:
        warn(warning)
    if wanted.data is not None:
        _warn_of_headers(recipe, source)
    # Only where every image has a digest can a kept copy be told to be still the same.
    known = all(item.columns.get("sha256") for item in source.items)
    loaded = load_pictures(
        source,
        Pipeline(recipe.preprocessing),
        recipe.labels,
        label_map=label_map,
        cache=wanted.runs / PLANES if known else None,
        progress=True,
    )
    return make_splits(loaded.pictures, recipe.split, keep=recipe.keep)


def _warn_of_headers(recipe: Recipe, source: Source) -> None:
    """Say how many of someone's own images the model could never score in the node."""
    use = IntendedUse.model_validate(recipe.intended_use)
    headers = headers_of(source, source.items)
    if not headers and use.age_years is not None:
        warn(
            "nothing says whom these pictures are of: the model will be declared for patients of "
            "{} to {} years; --set age=LOW-HIGH declares others".format(*use.age_years)
        )
    outside = refused(use, headers)
    if not outside:
        return
    by_age = outside != refused(use.model_copy(update={"age_years": None}), headers)
    ages = "any age" if use.age_years is None else "{} to {} years".format(*use.age_years)
    warn(
        f"the node would refuse {outside} of {len(source.items)} of these images by their header, "
        f"for this model is for {', '.join(use.modalities)}, {', '.join(use.body_parts)}, "
        f"{', '.join(use.view_positions) or 'any view'}, {use.minimum_rows} x "
        f"{use.minimum_columns} pixels or more, {ages}"
        + ("; --set age=LOW-HIGH says whom your images are of" if by_age else "")
    )


def load_labelled(
    source: Source,
    pipeline: Pipeline,
    labels: tuple[str, ...],
    *,
    label_map: str | None,
    split: str | None,
) -> list[Picture]:
    """Prepare the pictures of a split for a model folder; all of them where there are no splits."""
    from training.predict import check_label_map, items_of, split_of
    from training.reading import parts, readable

    chosen = split_of(source, split)
    mapping = label_map_for(source, split, label_map)
    check_label_map(mapping, labels, "the model")
    pictures: list[Picture] = []
    unknown: Counter[str] = Counter()
    problems = list(source.problems)
    for part in parts(source, items_of(source, chosen), progress=True):
        loaded, faults = readable(part, pipeline, labels, mapping)
        pictures += loaded.pictures
        unknown.update(loaded.unknown)
        problems += faults
    problems += [f"label {name!r}, n {count}" for name, count in sorted(unknown.items())]
    warn_of_left_out(problems, len(problems))
    if not pictures:
        raise BadInput(
            f"{source.name} has no picture of {', '.join(labels)} in split {chosen or 'all'}: name "
            "another --split, or say with --label-map what its labels mean"
        )
    return pictures


def warn_of_learned(models: Sequence[Path], source: Source, split: str) -> None:
    """Say which models were made from data of that name, where no test split keeps them apart."""
    from training.evaluate import TEST
    from training.predict import split_of

    if split_of(source, split) == TEST:
        return
    for model in models:
        if _data_of(model) == source.name:
            warn(
                f"{model.name} learned from data named {source.name}: what was not kept for "
                f"judging (split {TEST}) promises too much"
            )


def _data_of(model: Path) -> str | None:
    """Name of the data that a model folder says it was made from; None where it says nothing."""
    from training.export import EVIDENCE

    try:
        return str(json.loads((model / EVIDENCE).read_bytes())["data_set"])
    except (OSError, ValueError, KeyError):
        return None


def counts(recipe: Recipe, splits: Splits) -> dict[str, dict[str, int]]:
    """Split -> label -> number of pictures."""
    return {
        name: {
            label: sum(picture.target == index for picture in getattr(splits, name))
            for index, label in enumerate(recipe.labels)
        }
        for name in _SPLITS
    }


def counts_table(recipe: Recipe, splits: Splits, wanted: Wanted) -> Table:
    """`counts` for people, and how many groups there are of what `Wanted.grouping` names."""
    grouping = wanted.grouping(recipe, splits)
    table = Table("split", *recipe.labels, f"groups ({grouping})" if grouping else "groups")
    for name, row in counts(recipe, splits).items():
        groups = {picture.item.group for picture in getattr(splits, name)} - {""}
        table.add_row(name, *(str(number) for number in row.values()), str(len(groups)))
    return table
