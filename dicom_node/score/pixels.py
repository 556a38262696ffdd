"""Pixels of one DICOM frame as the models and the result objects need them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from dicom_node.score.codecs import read_header, read_stored
from dicom_node.score.damage import damage_as_bad_input
from dicom_node.score.grayscale import (
    FloatArray,
    fill_padding,
    modality_values,
    padding_mask,
    shown,
)

__all__ = ["Frame", "read_frame", "read_header", "read_modality_values"]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One decoded image.

    Attributes
    ----------
    values
        (rows, columns) float32 after the Modality LUT: HU for CT. MONOCHROME1 not inverted.
    shown
        (rows, columns) float32 in [0, 1] after VOI LUT or window, dark to bright as a radiologist
        expects: MONOCHROME1 inverted, padding black.
    header
        The data set without pixel data.
    frame_number
        1-based, or None for a single-frame object.
    notes
        What was odd about the header, as short sentences.
    """

    values: FloatArray
    shown: FloatArray
    header: Dataset
    frame_number: int | None
    notes: tuple[str, ...]

    @property
    def display(self) -> NDArray[np.uint8]:
        """`shown` as (rows, columns) uint8."""
        return np.rint(self.shown * 255).astype(np.uint8)


def read_frame(path: Path, frame_number: int | None = None) -> Frame:
    """Decode one frame of a Part 10 file.

    Parameters
    ----------
    frame_number
        1-based; None for a single-frame object.

    Raises
    ------
    BadInput
        The file cannot be read, decoded or is not monochrome; the message names the attribute.
    """
    stored = read_stored(path, frame_number)
    header, index = stored.header, (frame_number or 1) - 1
    with damage_as_bad_input("the description of the gray values is damaged"):
        mask = padding_mask(stored.values, header)
        values = fill_padding(
            modality_values(stored.values, header, index), mask, str(header.get("Modality", ""))
        )
        image, notes = shown(values, header, index, mask)
    return Frame(values, image, header, frame_number, notes)


def read_modality_values(path: Path, frame_number: int | None = None) -> FloatArray:
    """Decode one frame to (rows, columns) float32 modality values, HU for CT; padding is air.

    Raises
    ------
    BadInput
        As `read_frame`.
    """
    stored = read_stored(path, frame_number)
    with damage_as_bad_input("the description of the gray values is damaged"):
        values = modality_values(stored.values, stored.header, (frame_number or 1) - 1)
        mask = padding_mask(stored.values, stored.header)
        return fill_padding(values, mask, str(stored.header.get("Modality", "")))
