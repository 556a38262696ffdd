"""What a model folder says of labelled pictures, run by the node's own engine."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dicom_node.errors import BadInput
from dicom_node.score.bundle import Bundle, read_bundle
from dicom_node.score.engine import Classifier, open_classifier
from training.data import Item, Source
from training.data.manifests import SPLIT_NAMES
from training.judged import Array, Indices, Judged, judge
from training.reading import parts, readable

EVERYTHING = "all"
"""In place of a split: every picture of a source."""
OTHER = "other"
"""Maps a foreign label to "none of the findings", for a model without a label of its own for it."""
_SPLITS = frozenset({"train", "validation", "test"})
_USUAL_POINT = "balanced"
"""Of operating points with one and the same threshold, the one that it is named after."""


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
    unreadable
        A sentence on each labelled picture that was left out because it cannot be read.
    operating_point
        Name of the one that `threshold` is of; None where the model folder names none.
    threshold
        From which probability on the main finding is called.
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
    unreadable: tuple[str, ...]
    operating_point: str | None
    threshold: float

    @property
    def positive(self) -> str:
        """Label of the main finding."""
        return self.bundle.findings[0].label

    @property
    def groups(self) -> tuple[str, ...] | None:
        """Patient or document of each picture; None where the source names none."""
        groups = tuple(item.group for item in self.items)
        return groups if any(groups) else None

    def take(self, places: Sequence[int]) -> Predicted:
        """Only some of the pictures, in that order."""
        chosen = np.asarray(places, dtype=np.int64)
        return replace(
            self,
            items=tuple(self.items[place] for place in places),
            targets=self.targets[chosen],
            outputs=self.outputs[chosen],
            distance=self.distance[chosen],
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
    operating_point: str | None = None,
    progress: bool = False,
) -> Predicted:
    """Score the labelled pictures of a split.

    Parameters
    ----------
    split
        None, `all` or a source without splits: every picture.
    label_map
        From the source's labels to the model's, or to `other`.
    operating_point
        Name of the one to call by; None: the one in use.

    Raises
    ------
    BadInput
        There is no such split or operating point, the label map names a label that the model does
        not have, or no picture in the split that can be read has a label that the model knows.
    ModelError
        The model folder is not usable.
    """
    chosen = split_of(source, split)
    bundle = read_bundle(model_dir)
    point, threshold = _threshold(bundle, operating_point)
    classifier = open_classifier(bundle, device="cpu")
    labels = _labels(classifier.bundle)
    check_label_map(label_map, labels, bundle.name)
    items = items_of(source, chosen)
    known: list[Item] = []
    targets: list[int] = []
    unknown: Counter[str] = Counter()
    unreadable: list[str] = []
    outputs, distances = [], []
    for part in parts(source, items, progress=progress):
        loaded, faults = readable(part, classifier.pipeline, labels, label_map)
        unreadable += faults
        unknown.update(loaded.unknown)
        if loaded.pictures:
            tensors = [classifier.pipeline.tensor(one.plane) for one in loaded.pictures]
            scores = classifier.predict(tensors)
            outputs.append(scores.outputs[:, _columns(classifier)])
            distances.append(scores.distance)
            known += [one.item for one in loaded.pictures]
            targets += [one.target for one in loaded.pictures]
    if not known and unreadable:
        raise BadInput(
            f"no picture of {source.name} can be read, of which the first: {unreadable[0]}"
        )
    if not known:
        found = ", ".join(f"{label} ({count})" for label, count in sorted(unknown.items()))
        raise BadInput(
            f"{source.name}: no picture has a label that {classifier.bundle.name} knows "
            f"({', '.join(labels)}); found are {found}; say what they mean, as in "
            f"--label-map {next(iter(unknown))}=LABEL"
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
        unreadable=tuple(unreadable),
        operating_point=point,
        threshold=threshold,
    )


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows, one or more, under their keys."""
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def check_label_map(label_map: Mapping[str, str] | None, labels: Sequence[str], model: str) -> None:
    """Refuse a map to anything but a label of the model.

    Raises
    ------
    BadInput
        The map has such a target; the first is named.
    """
    for foreign, ours in (label_map or {}).items():
        if ours not in labels:
            raise BadInput(
                f"label map {foreign}={ours}: {model} has no label {ours!r}; it has "
                f"{', '.join(labels)}"
            )


def unused_labels(
    source: Source, split: str | None, label_map: Mapping[str, str] | None
) -> list[str]:
    """A sentence on each label of the map that no picture of the split has.

    Raises
    ------
    BadInput
        As `split_of`.
    """
    if not label_map:
        return []
    chosen = split_of(source, split)
    found = {item.label for item in items_of(source, chosen)}
    return [
        f"label map {foreign}={ours}: no picture of {source.name}, split {chosen or EVERYTHING}, "
        f"has the label {foreign!r}; found are {', '.join(sorted(found))}"
        for foreign, ours in label_map.items()
        if foreign not in found
    ]


def split_of(source: Source, split: str | None) -> str | None:
    """The split to take; None for every picture, as where the source names no splits.

    Raises
    ------
    BadInput
        The source has no pictures, or has not this split; where it names none at all, train,
        validation and test stand for every picture.
    """
    present = {item.split for item in source.items}
    if not present:
        why = f", of which the first: {source.problems[0]}" if source.problems else ""
        raise BadInput(f"{source.name} has no pictures; problems: {len(source.problems)}{why}")
    named = present - {""}
    if split is None or split == EVERYTHING or (not named and split in _SPLITS):
        return None
    if split not in named:
        split = SPLIT_NAMES.get(split.lower(), split)
    if split not in named:
        raise BadInput(
            f"{source.name} has no split {split!r}; it has {', '.join(sorted(named)) or 'none'}, "
            f"or {EVERYTHING} for every picture"
        )
    return split


def items_of(source: Source, chosen: str | None) -> tuple[Item, ...]:
    """The items of what `split_of` gave."""
    return tuple(item for item in source.items if chosen is None or item.split == chosen)


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


def _threshold(bundle: Bundle, name: str | None) -> tuple[str | None, float]:
    """Name and threshold of an operating point of the main finding; None: of the one in use."""
    finding = bundle.findings[0]
    if name is None:
        alike = [p.name for p in finding.operating_points if p.threshold == finding.threshold]
        usual = _USUAL_POINT if _USUAL_POINT in alike else next(iter(alike), None)
        return usual, finding.threshold
    for point in finding.operating_points:
        if point.name == name:
            return point.name, point.threshold
    there = ", ".join(point.name for point in finding.operating_points) or "none"
    raise BadInput(
        f"{bundle.name} has no operating point {name!r} of {finding.label}; it has {there}"
    )
