"""Measure a model folder on labelled pictures of any origin, as the node would score them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dicom_node.errors import BadInput
from training.data import Item, Picture, Source, strict_test
from training.headers import headers_of, refused
from training.intervals import SEED
from training.metrics import measure
from training.predict import Predicted, predict, write_csv

TEST = "test"
_LEARNED = frozenset({"train", "validation", ""})
"""Splits that a training learns from or chooses by; what is in none is learned from."""
_STRICT_COLUMNS = frozenset({"dup_group", "label_flag"})
_NO_VALUE = "(none)"
_MOST_PROBLEMS = 20


def evaluate(
    model_dir: Path,
    source: Source,
    *,
    split: str | None,
    label_map: Mapping[str, str] | None = None,
    group_by: str | None = None,
    operating_point: str | None = None,
    seed: int = SEED,
    predictions_csv: Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Compute every figure of a model on a split, ready for JSON.

    Parameters
    ----------
    split, label_map, operating_point
        See `training.predict.predict`.
    group_by
        Column of the source whose values are measured apart.
    predictions_csv
        Where to write the score of each picture.

    Returns
    -------
    dict
        What `training.metrics.measure` gives, `refused` and `refused_fraction`
        (by the scope gate; all figures count these pictures) and `accepted` (the figures without
        them), then `model`, `version`, `engine`, `operating_point` (the name of the threshold),
        `data`, `split`, `unknown_labels` (label -> pictures left out), `unreadable` (how many
        labelled pictures were left out because they cannot be read), `problems` (what is wrong with
        those and with rows or files of the source, whatever their split, that are no labelled
        images; the first 20) and `problem_count`, `refused_by_header` (how many of the pictures the
        node would not score because of their DICOM header, the gate apart; null without headers),
        `groups` (value -> the same figures; with `group_by`) and `strict` (the same figures without
        relatives of pictures in the source's other splits, taken as learned from, without copies
        and without doubted labels; where columns of its test split tell).

    Raises
    ------
    BadInput
        As `predict`, or the source has no such column.
    """
    if group_by is not None:
        _check_column(source, group_by)
    predicted = predict(
        model_dir,
        source,
        split=split,
        label_map=label_map,
        operating_point=operating_point,
        progress=progress,
    )
    problems = [*predicted.unreadable, *source.problems]
    headers = headers_of(source, predicted.items)
    if predictions_csv is not None:
        write_csv(predictions_csv, predicted.rows())
    report = _figures(predicted, seed) | {
        "model": predicted.bundle.name,
        "version": predicted.bundle.version,
        "engine": predicted.engine,
        "operating_point": predicted.operating_point,
        "data": predicted.data,
        "split": predicted.split,
        "unknown_labels": predicted.unknown,
        "unreadable": len(predicted.unreadable),
        "problems": problems[:_MOST_PROBLEMS],
        "problem_count": len(problems),
        "refused_by_header": refused(predicted.bundle.intended_use, headers) if headers else None,
    }
    if group_by is not None:
        report["groups"] = _by_group(predicted, group_by, seed)
    strict = _strict(predicted, source)
    if strict is not None:
        report["strict"] = _figures(predicted.take(strict), seed)
    return report


def _figures(predicted: Predicted, seed: int) -> dict[str, Any]:
    inside = np.flatnonzero(predicted.distance <= 1).tolist()
    count = len(predicted.items)
    refused = count - len(inside)
    return {
        **_measured(predicted, seed),
        "refused": refused,
        "refused_fraction": round(refused / count, 6) if count else None,
        "accepted": _measured(predicted.take(inside), seed),
    }


def _measured(predicted: Predicted, seed: int) -> dict[str, Any]:
    return measure(
        predicted.targets,
        predicted.outputs,
        labels=predicted.labels,
        positive=predicted.positive,
        threshold=predicted.threshold,
        seed=seed,
        groups=predicted.groups,
    )


def _check_column(source: Source, column: str) -> None:
    known = sorted({name for item in source.items for name in item.columns})
    if column not in known:
        raise BadInput(
            f"{source.name} has no column {column!r} to group by; "
            + (f"it has {', '.join(known)}" if known else "it has no columns")
        )


def _by_group(predicted: Predicted, column: str, seed: int) -> dict[str, dict[str, Any]]:
    values = np.array([item.columns.get(column, "") or _NO_VALUE for item in predicted.items])
    return {
        str(value): _figures(predicted.take(np.flatnonzero(values == value).tolist()), seed)
        for value in np.unique(values)
    }


def _strict(predicted: Predicted, source: Source) -> list[int] | None:
    """Places of test pictures of undoubted label unrelated to learned ones, where columns tell."""
    columns = {name for item in predicted.items for name in item.columns}
    if predicted.split != TEST or not columns & _STRICT_COLUMNS:
        return None
    learned = [_unread(item) for item in source.items if item.split in _LEARNED]
    kept = strict_test([_unread(item) for item in predicted.items], learned)
    paths = {picture.item.path for picture in kept}
    return [place for place, item in enumerate(predicted.items) if item.path in paths]


def _unread(item: Item) -> Picture:
    return Picture(item, np.empty((1, 0, 0), np.float32), 0)
