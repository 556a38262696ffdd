"""Everything that is wrong with a data set, said at once and before hours are spent on it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import track

from dicom_node.errors import BadInput
from training.data.items import Item, Source, copy_marks
from training.data.pictures import read_finite
from training.data.tables import PICTURES
from training.errors import TrainingDataError

LISTED = 20
"""Problems that an error names one by one."""
_FEWEST_GROUPS = 2
"""Of a class: one to learn from and one to validate on."""
_SPLITS = frozenset({"train", "validation", "test", ""})
_THREADS = 2


def check(
    source: Source,
    labels: Sequence[str],
    *,
    label_map: Mapping[str, str] | None = None,
    published: bool = False,
    progress: bool = False,
) -> list[str]:
    """Look for what would spoil a training, and decode every image.

    Parameters
    ----------
    labels
        What the model tells apart; images with other labels are only counted.
    label_map
        Applied to labels first.
    published
        Groups in two of train, validation and test, and pictures under two labels, are a warning:
        published sets have them.

    Returns
    -------
    warnings
        Sentences on what a person should know and what does not stop the training.

    Raises
    ------
    TrainingDataError
        There are problems: the first `LISTED` by file or row, and how many in all.
    """
    mapping = label_map or {}
    classes: dict[str, list[Item]] = defaultdict(list)
    for item in source.items:
        classes[mapping.get(item.label, item.label)].append(item)
    known = {label: classes[label] for label in labels if classes.get(label)}
    unknown = {label: items for label, items in classes.items() if label not in labels}
    shared = list(_shared_groups([item for items in known.values() for item in items]))
    contradictions = list(_contradictions(known))
    problems = [
        *source.problems,
        *_class_problems(known, labels, unknown),
        *_path_problems(source.items),
        *([] if published else [*shared, *contradictions]),
        *_undecodable(source, progress=progress),
    ]
    if problems:
        raise TrainingDataError(_listing(source.name, problems))
    warnings = [
        f"{len(items)} images have the label {label!r}, which is none of {', '.join(labels)}: they "
        "are left out; a label map can name what they are"
        for label, items in unknown.items()
    ]
    if contradictions:
        warnings.append(
            f"pictures under two labels: {len(contradictions)}; the first: {contradictions[0]}"
        )
    if shared:
        warnings.append(f"groups in two splits: {len(shared)}; the first: {shared[0]}")
    if not any(item.group for item in source.items):
        warnings.append(
            "nothing says which images are of one patient: if a patient has several, they may be "
            "both learned from and validated on; a column patient_id prevents that"
        )
    return [*warnings, *_unnamed(source)]


def _class_problems(
    known: Mapping[str, list[Item]], labels: Sequence[str], unknown: Mapping[str, list[Item]]
) -> Iterator[str]:
    if len(known) < len(labels):
        lacking = ", ".join(label for label in labels if label not in known)
        others = f"; there are images of {', '.join(sorted(unknown))}" if unknown else ""
        yield f"no image of {lacking}: each of {', '.join(labels)} needs some{others}"
    elif len(known) < 2:
        yield f"there is only one class, {', '.join(known)}: two are needed to tell apart"
    for label, items in known.items():
        # A set that is all test has nothing to divide: it is only judged by.
        learned = [item for item in items if item.split != "test"] or items
        groups = {item.group or f"alone:{item.path}" for item in learned}
        if len(groups) < _FEWEST_GROUPS:
            yield (
                f"all {len(learned)} images of {label} belong to one patient or group: at least "
                f"{_FEWEST_GROUPS} are needed, one to learn from and one to validate on"
            )


def _path_problems(items: Sequence[Item]) -> Iterator[str]:
    for path, count in Counter(item.path for item in items).items():
        if count > 1:
            yield f"{path} is named {count} times; keep one row"
    for item in items:
        if item.split not in _SPLITS:
            yield (
                f"{item.path}: split {item.split!r}; train, validation or test can be written "
                "there, or nothing"
            )


def _contradictions(known: Mapping[str, list[Item]]) -> Iterator[str]:
    """A sentence on each picture that is there under two labels, byte by byte the same."""
    first: dict[str, tuple[str, Item]] = {}
    for label, items in known.items():
        for item in items:
            for mark in copy_marks(item):
                other, there = first.setdefault(mark, (label, item))
                if other != label:
                    yield f"{there.path} ({other}) and {item.path} ({label}) are one picture"


def _shared_groups(items: Sequence[Item]) -> Iterator[str]:
    """A sentence on each group in two splits; it names images, since a group may name a patient."""
    first: dict[str, dict[str, str]] = defaultdict(dict)
    for item in items:
        if item.group:
            # What is in no split is learned from.
            first[item.group].setdefault(item.split or "train", item.path)
    for splits in first.values():
        if len(splits) > 1:
            places = " and ".join(f"{split} ({path})" for split, path in sorted(splits.items()))
            yield f"one patient or group is in {places}; keep it in one of them"


def _undecodable(source: Source, *, progress: bool) -> Iterator[str]:
    def fault(item: Item) -> str | None:
        try:
            image = read_finite(source, item)
        except BadInput as error:
            return str(error)
        if image.min() == image.max():
            return f"{source.name}: {item.path} is blank: all its pixels are alike; remove it"
        return None

    with ThreadPoolExecutor(_THREADS) as pool:
        faults = track(
            pool.map(fault, source.items),
            description=f"checking {source.name}",
            total=len(source.items),
            console=Console(stderr=True),
            disable=not progress,
            transient=True,
        )
        yield from (found for found in faults if found is not None)


def _unnamed(source: Source) -> Iterator[str]:
    """A sentence on the pictures of a source's folder that none of its items names."""
    root = getattr(source, "root", None)
    if not isinstance(root, Path):
        return
    named = {(root / item.path).resolve() for item in source.items}
    pictures = (file for file in sorted(root.rglob("*")) if file.suffix.lower() in PICTURES)
    unnamed = [file.relative_to(root) for file in pictures if file.resolve() not in named]
    if unnamed:
        yield (
            f"pictures in {source.name} without a label: {len(unnamed)}; they are left out; the "
            f"first is {unnamed[0].as_posix()}"
        )


def _listing(name: str, problems: Sequence[str]) -> str:
    lines = [f"{name} cannot be learned from; problems: {len(problems)}"]
    lines += [f"  - {problem}" for problem in problems[:LISTED]]
    if len(problems) > LISTED:
        lines.append(f"  ... and {len(problems) - LISTED} more")
    return "\n".join(lines)
