"""From the words of a command to labelled, checked and divided pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dicom_node.errors import BadInput
from dicom_node.score.transforms import Pipeline
from training.cli.options import warn
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


def label_map_of(text: str | None) -> dict[str, str] | None:
    """The mapping that `--label-map` states."""
    return None if text is None else parse_label_map(text)


def label_map_for(source: Source, split: str | None, text: str | None) -> dict[str, str] | None:
    """The mapping that `--label-map` states; warns of labels that no picture of the split has."""
    from training.predict import unused_labels

    label_map = label_map_of(text)
    for unused in unused_labels(source, split, label_map):
        Console(stderr=True, soft_wrap=True).print(
            f"warning: {unused}", markup=False, highlight=False
        )
    return label_map


def load_splits(recipe: Recipe, wanted: Wanted, source: Source, *, quiet: bool = False) -> Splits:
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
        progress=not quiet,
    )
    for warning in warnings:
        Console(stderr=True, soft_wrap=True, quiet=quiet).print(
            f"warning: {warning}", markup=False, highlight=False
        )
    # Only where every image has a digest can a kept copy be told to be still the same.
    known = all(item.columns.get("sha256") for item in source.items)
    loaded = load_pictures(
        source,
        Pipeline(recipe.preprocessing),
        recipe.labels,
        label_map=label_map,
        cache=wanted.runs / PLANES if known else None,
        progress=not quiet,
    )
    return make_splits(loaded.pictures, recipe.split, keep=recipe.keep)


def load_labelled(
    source: Source,
    pipeline: Pipeline,
    labels: tuple[str, ...],
    *,
    label_map: str | None,
    split: str | None,
) -> list[Picture]:
    """Prepare the pictures of a split for a model folder; all of them where there are no splits."""
    from training.predict import check_label_map, split_of

    chosen = split_of(source, split)
    mapping = label_map_for(source, split, label_map)
    check_label_map(mapping, labels, "the model")
    loaded = load_pictures(source, pipeline, labels, label_map=mapping, split=chosen, progress=True)
    left_out = [f"label {name!r}, n {count}" for name, count in loaded.unknown.items()]
    warn([*source.problems, *left_out], len(source.problems) + len(left_out))
    if not loaded.pictures:
        raise BadInput(
            f"{source.name} has no picture of {', '.join(labels)} in split {chosen or 'all'}: name "
            "another --split, or say with --label-map what its labels mean"
        )
    return loaded.pictures


def counts(recipe: Recipe, splits: Splits) -> dict[str, dict[str, int]]:
    """Split -> label -> number of pictures."""
    return {
        name: {
            label: sum(picture.target == index for picture in getattr(splits, name))
            for index, label in enumerate(recipe.labels)
        }
        for name in _SPLITS
    }


def counts_table(recipe: Recipe, splits: Splits) -> Table:
    """`counts` for people."""
    table = Table("split", *recipe.labels, "groups")
    for name, row in counts(recipe, splits).items():
        groups = {picture.item.group for picture in getattr(splits, name)} - {""}
        table.add_row(name, *(str(number) for number in row.values()), str(len(groups)))
    return table
