"""A source read part by part: bounded memory, and a damaged picture stops nobody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import Progress

from dicom_node.score.transforms import Pipeline
from training.data import Item, Loaded, Picture, Source, load_pictures
from training.data.items import FloatArray
from training.errors import TrainingDataError

_AT_ONCE = 64
"""Pictures held in memory."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some items of a source."""

    whole: Source
    items: tuple[Item, ...]

    @property
    def name(self) -> str:
        """Name of the source."""
        return self.whole.name

    @property
    def problems(self) -> tuple[str, ...]:
        """Problems of the source."""
        return self.whole.problems

    def read(self, item: Item) -> FloatArray:
        """Image of an item, see `Source.read`."""
        return self.whole.read(item)


def parts(source: Source, items: tuple[Item, ...], *, progress: bool) -> Iterator[Part]:
    """The items, `_AT_ONCE` at a time, under a bar on standard error."""
    with Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task(f"scoring {source.name}", total=len(items))
        for start in range(0, len(items), _AT_ONCE):
            some = items[start : start + _AT_ONCE]
            yield Part(source, some)
            bar.advance(task, len(some))


def readable(
    part: Part, pipeline: Pipeline, labels: Sequence[str], label_map: Mapping[str, str] | None
) -> tuple[Loaded, list[str]]:
    """The pictures that can be read, and what is wrong with the others."""
    try:
        return load_pictures(part, pipeline, labels, label_map=label_map), []
    except TrainingDataError:
        pictures: list[Picture] = []
        unknown, faults = Counter[str](), []
    for item in part.items:
        try:
            one = load_pictures(Part(part.whole, (item,)), pipeline, labels, label_map=label_map)
        except TrainingDataError as error:
            faults.append(str(error))
        else:
            pictures += one.pictures
            unknown.update(one.unknown)
    return Loaded(pictures, dict(unknown)), faults
