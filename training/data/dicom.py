"""DICOM images to learn from, decoded, chosen and turned as the node does when it scores."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset

from dicom_node.domain.study import MODALITY_OF_SOP_CLASS
from dicom_node.errors import BadInput
from dicom_node.score.lungs import choose_slices, find_lungs
from dicom_node.score.pixels import read_frame, read_header, read_modality_values
from dicom_node.score.slices import SliceHeader, read_slice_headers
from dicom_node.score.stack import AXIAL, plane_of
from dicom_node.score.volume import build_volume
from training.data.items import FloatArray, Units

SLICES_PER_SERIES = 24
"""Slices taken of a CT series: as many as the shipped CT model looks at."""
_RADIOGRAPHS = frozenset({"CR", "DX"})
_GROUP_DIGITS = 12


@dataclass(frozen=True, slots=True)
class DicomImage:
    """Where the pixels of one image lie, and how the node shows them to a network.

    Attributes
    ----------
    file
        A Part 10 file.
    frame_number
        1-based, None in a single-frame file.
    place
        1-based place in the spatial order of its series, None for a file by itself.
    units
        HU for CT, a display image for radiographs.
    mirrored
        Axes of (rows, columns) that are turned round, as radiologists view slices.
    group
        Digest that stands for the patient, or for the study where no Patient ID is stated.
    """

    file: Path
    frame_number: int | None
    place: int | None
    units: Units
    mirrored: tuple[int, ...]
    group: str

    def read(self) -> FloatArray:
        """Decode to (rows, columns) float32: [0, 1] dark to bright, or HU.

        Raises
        ------
        BadInput
            The pixels cannot be decoded.
        """
        if self.units == "display":
            return read_frame(self.file, self.frame_number).shown
        values = read_modality_values(self.file, self.frame_number)
        return np.ascontiguousarray(np.flip(values, self.mirrored))


def dicom_images(path: Path) -> list[DicomImage]:
    """One image of a radiograph or CT slice; the chosen slices of a folder or Enhanced CT file.

    Raises
    ------
    BadInput
        Not DICOM, neither radiograph nor CT, not axial, a series without lungs, or a folder that
        holds more than one series.
    """
    if path.is_dir():
        return _series(sorted(file for file in path.iterdir() if _may_be_dicom(file)))
    header = read_header(path)
    modality = _modality(header)
    if modality == "CT":
        slices = read_slice_headers([path])
        return _series([path]) if len(slices) > 1 else [_slice(slices[0], _group(header))]
    if modality not in _RADIOGRAPHS:
        raise BadInput(
            f"Modality (0008,0060) is {modality or 'not stated'}; CR, DX and CT can be learned from"
        )
    return [DicomImage(path, None, None, "display", (), _group(header))]


def _may_be_dicom(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".") and file.name != "DICOMDIR"


def _series(files: Sequence[Path]) -> list[DicomImage]:
    """The slices of one CT series that the node would score."""
    if not files:
        raise BadInput("the folder holds no file; a folder must hold the files of one CT series")
    group = _group_of_series(files)
    headers = {(h.sop_instance_uid, h.frame_number): h for h in read_slice_headers(files)}
    volume = build_volume(files)
    mirrored = _mirrored(volume.orientation)
    lungs = find_lungs(volume)
    if lungs.refusal is not None:
        raise BadInput(lungs.refusal)
    images = []
    for index in choose_slices(volume, lungs, count=SLICES_PER_SERIES):
        header = headers[volume.sop_instance_uids[index], volume.frame_numbers[index]]
        images.append(
            DicomImage(header.path, header.frame_number, index + 1, "hounsfield", mirrored, group)
        )
    return images


def _group_of_series(files: Sequence[Path]) -> str:
    """Group of the files of one CT series."""
    headers = [read_header(file) for file in files]
    other = sorted({_modality(header) or "not stated" for header in headers} - {"CT"})
    if other:
        raise BadInput(
            f"Modality (0008,0060) is {', '.join(other)} in a folder, not CT; name radiographs "
            "one by one"
        )
    for keyword, what in (("SeriesInstanceUID", "series"), ("PatientID", "patients")):
        count = len({_text(header, keyword) for header in headers})
        if count > 1:
            raise BadInput(f"the folder holds {count} {what}; give each series a folder of its own")
    if len({_text(header, "SOPInstanceUID") for header in headers}) < len(headers):
        raise BadInput("the folder holds an instance twice; remove the copies")
    return _group(headers[0])


def _slice(header: SliceHeader, group: str) -> DicomImage:
    mirrored = _mirrored(header.orientation or AXIAL)
    return DicomImage(header.path, header.frame_number, None, "hounsfield", mirrored, group)


def _mirrored(orientation: Sequence[float]) -> tuple[int, ...]:
    """Axes to turn so that x runs to the left and y to the back, as the node turns slices."""
    plane = plane_of(orientation)
    if plane != "axial":
        raise BadInput(f"the image is {plane}; only axial ones can be learned from")
    row_direction, column_direction = orientation[0], orientation[4]
    turned = (column_direction < 0, row_direction < 0)
    return tuple(axis for axis, turn in enumerate(turned) if turn)


def _modality(header: Dataset) -> str:
    """Modality, or the one that the SOP class implies where the header states none."""
    stated = _text(header, "Modality")
    return stated or MODALITY_OF_SOP_CLASS.get(_text(header, "SOPClassUID"), "")


def _group(header: Dataset) -> str:
    """Digest of Patient ID, else of Study Instance UID; empty if the header has neither."""
    for keyword in ("PatientID", "StudyInstanceUID"):
        value = _text(header, keyword)
        if value:
            digest = hashlib.sha256(f"{keyword}:{value}".encode()).hexdigest()
            return digest[:_GROUP_DIGITS]
    return ""


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else str(value).strip()
