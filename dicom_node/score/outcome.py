"""What scoring hands to the reporter: a prediction and the arrays that belong to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dicom_node.domain.findings import KeyImage, Prediction
from dicom_node.score.bundle import Bundle

OutOfScope = Literal["refuse", "mark"]
NOT_APPLIED = "model not applied"
"""`Prediction.engine` where nothing was run."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """A prediction and its arrays.

    Attributes
    ----------
    prediction
        The scorer's whole answer.
    arrays
        `display_<i>` (rows, columns) uint8 and `heat_<i>` (h, w) float32 in [0, 1], where `i` is
        the index of a key image.
    """

    prediction: Prediction
    arrays: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A key image with its arrays; `heat` is None if nothing was scored."""

    sop_instance_uid: str
    instance_number: int | None
    frame_number: int | None
    probability: float | None
    display: NDArray[np.uint8]
    heat: NDArray[np.float32] | None


def key_images(
    shown: list[Shown],
) -> tuple[tuple[KeyImage, ...], dict[str, NDArray[Any]]]:
    """Number key images and name their arrays."""
    images: list[KeyImage] = []
    arrays: dict[str, NDArray[Any]] = {}
    for index, item in enumerate(shown):
        images.append(
            KeyImage(
                index=index,
                sop_instance_uid=item.sop_instance_uid,
                instance_number=item.instance_number,
                frame_number=item.frame_number,
                probability=item.probability,
                has_heat=item.heat is not None,
            )
        )
        arrays[f"display_{index}"] = item.display
        if item.heat is not None:
            arrays[f"heat_{index}"] = item.heat
    return tuple(images), arrays


def not_analysed(
    bundle: Bundle, reasons: tuple[str, ...], shown: list[Shown], sources: tuple[str, ...]
) -> Outcome:
    """Say that the model was not applied, and why."""
    images, arrays = key_images(shown)
    prediction = Prediction(
        model=bundle.identity,
        findings=(),
        key_images=images,
        not_analysed="; ".join(reasons),
        marks=(),
        engine=NOT_APPLIED,
        source_sop_instance_uids=sources,
    )
    return Outcome(prediction, arrays)


def marks_of(violations: tuple[str, ...], remarks: tuple[str, ...]) -> tuple[str, ...]:
    """Warnings that stand beside a score."""
    outside = ("outside intended use: " + "; ".join(violations),) if violations else ()
    return (*outside, *remarks)
