"""What a model folder says of labelled pictures, run by the node's own engine."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from dicom_node.errors import BadInput
from dicom_node.score.bundle import Bundle, read_bundle
from dicom_node.score.engine import Classifier, open_classifier
from training.data import Item, Source, load_pictures
from training.data.items import FloatArray
from training.judged import Array, Indices, Judged, judge

EVERYTHING = "all"
"""In place of a split: every picture of a source."""
OTHER = "other"
"""Maps a foreign label to "none of the findings", for a model without a label of its own for it."""
_AT_ONCE = 64
"""Pictures held in memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """A model's scores of N labelled pictures.

    Attributes
    ----------
    bundle, engine
        The model folder, and the runtime that ran it.
    data, split
        Name of the source, and which split of it, or `all`.
    items
        N items.
    labels
        Words that `targets` are places in.
    targets
        (N,).
    outputs
        (N, K) calibrated: of the main finding (K = 1) or of each of `labels`.
    distance
        (N,): above 1 the scope gate refuses.
    unknown
        Label -> how many pictures of it were left out, the model not knowing it.
    """

    bundle: Bundle
    engine: str
    data: str
    split: str
    items: tuple[Item, ...]
    labels: tuple[str, ...]
    targets: Indices
    outputs: Array
    distance: Array
    unknown: dict[str, int]

    @property
    def positive(self) -> str:
        """Label of the main finding."""
        return self.bundle.findings[0].label

    @property
    def threshold(self) -> float:
        """Of the main finding."""
        return self.bundle.findings[0].threshold

    @property
    def groups(self) -> tuple[str, ...] | None:
        """Patient or document of each picture; None where the source names none."""
        groups = tuple(item.group for item in self.items)
        return groups if any(groups) else None

    def take(self, places: Sequence[int]) -> Predicted:
        """Only some of the pictures, in that order."""
        chosen = np.asarray(places, dtype=np.int64)
        return Predicted(
            self.bundle,
            self.engine,
            self.data,
            self.split,
            tuple(self.items[place] for place in places),
            self.labels,
            self.targets[chosen],
            self.outputs[chosen],
            self.distance[chosen],
            self.unknown,
        )

    def judged(self) -> Judged:
        """The pictures beside what the model calls them."""
        return judge(
            self.targets,
            self.outputs,
            labels=self.labels,
            positive=self.positive,
            threshold=self.threshold,
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row a picture: path, label, probability of each output, distance, refused."""
        names = (self.positive,) if self.outputs.shape[1] == 1 else self.labels
        return [
            {
                "path": item.path,
                "label": self.labels[int(target)],
                **{name: round(float(p), 6) for name, p in zip(names, row, strict=True)},
                "distance": round(float(distance), 6),
                "refused": int(distance > 1),
            }
            for item, target, row, distance in zip(
                self.items, self.targets, self.outputs, self.distance, strict=True
            )
        ]


def predict(
    model_dir: Path,
    source: Source,
    *,
    split: str | None,
    label_map: Mapping[str, str] | None = None,
    progress: bool = False,
) -> Predicted:
    """Score the labelled pictures of a split.

    Parameters
    ----------
    split
        None, `all` or a source without splits: every picture.
    label_map
        From the source's labels to the model's, or to `other`.

    Raises
    ------
    BadInput
        There is no such split, no picture in it has a label that the model knows, or an image
        cannot be read.
    ModelError
        The model folder is not usable.
    """
    chosen = _split_of(source, split)
    classifier = open_classifier(read_bundle(model_dir), device="cpu")
    labels = _labels(classifier.bundle)
    items = tuple(item for item in source.items if chosen is None or item.split == chosen)
    known: list[Item] = []
    targets: list[int] = []
    unknown: Counter[str] = Counter()
    outputs, distances = [], []
    for part in _parts(source, items, progress=progress):
        loaded = load_pictures(part, classifier.pipeline, labels, label_map=label_map)
        unknown.update(loaded.unknown)
        if loaded.pictures:
            tensors = [classifier.pipeline.tensor(one.plane) for one in loaded.pictures]
            scores = classifier.predict(tensors)
            outputs.append(scores.outputs[:, _columns(classifier)])
            distances.append(scores.distance)
            known += [one.item for one in loaded.pictures]
            targets += [one.target for one in loaded.pictures]
    if not known:
        found = ", ".join(f"{label} ({count})" for label, count in sorted(unknown.items()))
        raise BadInput(
            f"{source.name}: no picture has a label that {classifier.bundle.name} knows "
            f"({', '.join(labels)}); found are {found}; map them, for example "
            f"--label-map {next(iter(unknown))}={labels[0]}"
        )
    return Predicted(
        bundle=classifier.bundle,
        engine=classifier.engine,
        data=source.name,
        split=chosen or EVERYTHING,
        items=tuple(known),
        labels=labels,
        targets=np.array(targets, dtype=np.int64),
        outputs=np.concatenate(outputs),
        distance=np.concatenate(distances),
        unknown=dict(sorted(unknown.items())),
    )


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows, one or more, under their keys."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _split_of(source: Source, split: str | None) -> str | None:
    """The split to take; None for every picture."""
    present = {item.split for item in source.items}
    if not present:
        raise BadInput(f"{source.name} has no pictures")
    if split in (None, EVERYTHING) or present == {""}:
        return None
    if split not in present:
        raise BadInput(
            f"{source.name} has no split {split!r}; it has {', '.join(sorted(present - {''}))}, "
            f"or {EVERYTHING} for every picture"
        )
    return split


def _labels(bundle: Bundle) -> tuple[str, ...]:
    section = bundle.metadata.dicom_node
    nothing_else = section.calibration.function == "sigmoid" and section.labels == section.outputs
    return (*section.labels, OTHER) if nothing_else else section.labels


def _columns(classifier: Classifier) -> list[int]:
    """Outputs to keep: each label's, or of independent outputs the main finding's."""
    section = classifier.bundle.metadata.dicom_node
    softmax = section.calibration.function == "softmax"
    wanted = section.labels if softmax else (section.findings[0].label,)
    return [section.outputs.index(label) for label in wanted]


@dataclass(frozen=True, slots=True)
class _Part:
    """Some items of a source."""

    whole: Source
    items: tuple[Item, ...]

    @property
    def name(self) -> str:
        return self.whole.name

    @property
    def problems(self) -> tuple[str, ...]:
        return self.whole.problems

    def read(self, item: Item) -> FloatArray:
        return self.whole.read(item)


def _parts(source: Source, items: tuple[Item, ...], *, progress: bool) -> Iterator[_Part]:
    """The items, `_AT_ONCE` at a time, under a bar on standard error."""
    with Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task(f"scoring {source.name}", total=len(items))
        for start in range(0, len(items), _AT_ONCE):
            part = items[start : start + _AT_ONCE]
            yield _Part(source, part)
            bar.advance(task, len(part))
