"""Synthetic images as arrays and data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from tests.attributes import change

Write = Callable[..., Path]


def dataset_of(stored: NDArray[Any], **attributes: Any) -> Dataset:
    """A DX image of a three-year-old with these stored values; attributes set to None go away."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = UID("2.25.7001")
    data.StudyInstanceUID, data.SeriesInstanceUID = UID("2.25.7002"), UID("2.25.7003")
    data.Modality, data.BodyPartExamined, data.ViewPosition = "DX", "CHEST", "AP"
    data.PatientAge, data.InstanceNumber = "003Y", "1"
    data.Rows, data.Columns = stored.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = stored.dtype.itemsize * 8
    data.BitsStored = data.BitsAllocated
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.PixelData = stored.tobytes()
    data["PixelData"].VR = "OB" if data.BitsAllocated == 8 else "OW"
    return change(data, attributes)


def chest_like(rows: int = 300, columns: int = 260) -> NDArray[np.uint8]:
    """A picture with some structure, (rows, columns) uint8."""
    y, x = np.mgrid[0 : 1 : rows * 1j, 0 : 1 : columns * 1j]
    picture = 120 + 60 * np.sin(7 * x) * np.cos(5 * y) + 50 * (np.abs(x - 0.5) < 0.12)
    return np.asarray(np.clip(picture, 0, 255), dtype=np.uint8)
