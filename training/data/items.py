"""The values that data sets are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Units = Literal["display", "hounsfield"]


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled image of a source, not read yet.

    Attributes
    ----------
    path
        Its name within the source, for messages; no patient data.
    label
        As the source says it.
    split
        `train`, `validation`, `test`, another word of the source's own, which is only judged by, or
        empty where the source does not say.
    group
        What must not be torn apart: patient or document; empty if unknown.
    columns
        Everything else that the source says of it.
    units
        What `Source.read` gives: a display image, or HU.
    """

    path: str
    label: str
    split: str = ""
    group: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    units: Units = "display"


def copy_marks(item: Item) -> set[str]:
    """What two items have in common if they are copies: a declared group, or file and slice."""
    declared, digest = (item.columns.get(name, "") for name in ("dup_group", "sha256"))
    place = item.path.rpartition("#")[2]
    place = place if place.isdigit() else ""  # else "#" is a letter of a file's name
    return {declared, digest and f"{digest}#{place}"} - {""}


class Source(Protocol):
    """Where labelled images come from."""

    @property
    def name(self) -> str:
        """Name for messages and reports."""
        ...

    @property
    def items(self) -> tuple[Item, ...]:
        """All items, in the source's order."""
        ...

    @property
    def problems(self) -> tuple[str, ...]:
        """What was wrong with single rows or files when the source was opened."""
        ...

    def read(self, item: Item) -> FloatArray:
        """Image (rows, columns) float32 in `item.units`; safe to call from several threads."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A prepared image.

    Attributes
    ----------
    item
        What the source says of it.
    plane
        (1, rows, columns) float32 in [0, 1], after the display stage of the preprocessing.
    target
        Index of its label.
    """

    item: Item
    plane: FloatArray
    target: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """Pictures, and how many items had each label that is not known."""

    pictures: list[Picture]
    unknown: dict[str, int]


@dataclass(frozen=True, slots=True)
class Splits:
    """Pictures to train on, to choose with, and to judge by."""

    train: list[Picture]
    validation: list[Picture]
    test: list[Picture]
