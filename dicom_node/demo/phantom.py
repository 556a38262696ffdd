"""Synthetic CT series: a thorax phantom, and a few real slices made into a longer series.

The phantom says what it is in every field a viewer shows, and formally with Synthetic Data
(0008,001C) YES and Quality Control Image (0028,0300) YES. Image Type is DERIVED\\PRIMARY\\AXIAL:
no scanner acquired it, so it must not pass for ORIGINAL; SECONDARY would call it a by-product of
an earlier examination; AXIAL or LOCALIZER is what CT asks for (PS3.3 C.8.2.1.1.1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from uuid import UUID, uuid5

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from dicom_node.demo.anatomy import FIELD_OF_VIEW_MM, HEIGHT_MM, thorax_slices

_NAMESPACE = UUID("6b1f0c2e-53c4-5d0b-9a55-0f2f6d0f7c1a")
_IMPLEMENTATION = UID("2.25.207312283374112842126229917543310473189")
_INTERCEPT = -1024
_LARGEST_STORED = 4095
_AXIAL = [1, 0, 0, 0, 1, 0]


def derived_uid(seed: str, kind: str, index: int = 0) -> UID:
    """UID under 2.25 (PS3.5 B.2) that depends on nothing but its arguments."""
    return UID(f"2.25.{uuid5(_NAMESPACE, f'{len(seed)}:{seed}/{kind}/{index}').int}")


def write_thorax_phantom(
    folder: Path, *, seed: str, now: datetime, slices: int = 48, matrix: int = 512
) -> list[Path]:
    """Write a CT series of a thorax phantom of 240 mm height.

    Parameters
    ----------
    seed
        Decides UIDs and pixels; the same seed gives the same files.
    now
        Aware time of the examination.
    slices
        Number of slices, at least 2; their distance is 240 mm / `slices` (5 mm for 48).
    matrix
        Rows and columns.

    Returns
    -------
    list of Path
        `<folder>/ct_0001.dcm` and so on from the lowest slice to the highest.

    Raises
    ------
    ValueError
        A naive time, or fewer than 2 slices.
    """
    if now.tzinfo is None or slices < 2:
        raise ValueError(f"an aware time and at least 2 slices are needed, not {slices}")
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8]))
    gap = HEIGHT_MM / slices
    heights = (np.arange(slices, dtype=np.float64) + 0.5) * gap
    paths = []
    for index, hu in enumerate(thorax_slices(rng, heights, matrix)):
        data = _phantom_slice(seed, now)
        _place(data, seed, index, gap=gap, matrix=matrix)
        data.PixelData = _stored(hu).tobytes()
        paths.append(folder / f"ct_{index + 1:04d}.dcm")
        _save(data, paths[-1])
    return paths


def extend_series(
    slices: Sequence[Path], folder: Path, count: int, *, seed: str, gap_mm: float | None = None
) -> list[Path]:
    """Make a longer CT series of a few real slices by giving copies new places and UIDs.

    The slices are taken to and fro (1 2 3 2 1 2 ...), so that neighbours resemble one another. All
    copies share one Study and Series Instance UID. What the headers lack stays lacking, except
    Image Position, Instance Number and the UIDs.

    Parameters
    ----------
    slices
        Files of one series, in spatial order.
    gap_mm
        Distance of the new slices; None takes Slice Thickness.

    Raises
    ------
    ValueError
        No slices, a count below 1, or no distance given and no Slice Thickness.
    """
    if not slices or count < 1:
        raise ValueError(f"at least one slice and a count of 1 are needed, not {count}")
    folder.mkdir(parents=True, exist_ok=True)
    tour = [*slices, *slices[-2:0:-1]]
    first = pydicom.dcmread(slices[0], stop_before_pixels=True)
    gap = gap_mm if gap_mm is not None else float(first.get("SliceThickness") or 0)
    if gap <= 0:
        raise ValueError("no distance given and no Slice Thickness in the first slice")
    cosines = np.array(first.get("ImageOrientationPatient") or _AXIAL, float)
    normal = np.cross(cosines[:3], cosines[3:])
    origin = np.array(first.get("ImagePositionPatient") or [0, 0, 0], float)
    paths = []
    for index in range(count):
        data = pydicom.dcmread(tour[index % len(tour)])
        place = origin + index * gap * normal
        data.ImagePositionPatient = [f"{value:.6g}" for value in place]
        data.InstanceNumber = index + 1
        if "SliceLocation" in data:
            data.SliceLocation = f"{float(np.dot(normal, place)):.6g}"
        _identify(data, seed, index)
        paths.append(folder / f"ct_{index + 1:04d}.dcm")
        data.save_as(paths[-1], enforce_file_format=True)
    return paths


def _identify(data: Dataset, seed: str, index: int) -> None:
    data.StudyInstanceUID = derived_uid(seed, "study")
    data.SeriesInstanceUID = derived_uid(seed, "series")
    data.SOPInstanceUID = derived_uid(seed, "instance", index)
    if isinstance(data, FileDataset):
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID


def _phantom_slice(seed: str, now: datetime) -> Dataset:
    """What all slices of the phantom share: patient, study, series, equipment."""
    data = Dataset()
    data.SOPClassUID = CTImageStorage
    data.SyntheticData = "YES"
    data.QualityControlImage = "YES"
    data.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    data.DerivationDescription = "Computed phantom"
    data.PatientName = "PHANTOM^THORAX"
    data.PatientID = "PHANTOM-CT"
    data.PatientBirthDate = ""
    data.PatientSex = "O"
    data.PatientAge = "055Y"
    data.StudyDate = data.SeriesDate = data.AcquisitionDate = data.ContentDate = f"{now:%Y%m%d}"
    data.StudyTime = data.SeriesTime = data.AcquisitionTime = data.ContentTime = f"{now:%H%M%S}"
    data.TimezoneOffsetFromUTC = f"{now:%z}"[:5]
    data.AccessionNumber = "PHANTOM"
    data.ReferringPhysicianName = ""
    data.StudyID = "PHANTOM"
    data.StudyDescription = "THORAX PHANTOM (SYNTHETIC)"
    data.SeriesDescription = "THORAX PHANTOM (SYNTHETIC) LUNG"
    data.Modality = "CT"
    data.BodyPartExamined = "CHEST"
    data.PatientPosition = "HFS"
    data.SeriesNumber = 1
    data.AcquisitionNumber = 1
    data.Manufacturer = "dicom_node"
    data.ManufacturerModelName = "thorax phantom"
    data.FrameOfReferenceUID = derived_uid(seed, "frame of reference")
    data.PositionReferenceIndicator = ""
    data.KVP = None
    data.ImageComments = "Computed phantom, not a patient; not for diagnosis"
    return data


def _place(data: Dataset, seed: str, index: int, *, gap: float, matrix: int) -> None:
    """What differs from slice to slice, and how its pixels are stored."""
    _identify(data, seed, index)
    pixel = FIELD_OF_VIEW_MM / matrix
    corner = -(matrix - 1) / 2 * pixel
    height = (index + 0.5) * gap
    data.InstanceNumber = index + 1
    data.ImageOrientationPatient = _AXIAL
    data.ImagePositionPatient = [f"{value:.8g}" for value in (corner, corner, height)]
    data.SliceLocation = f"{height:.8g}"
    data.SliceThickness = f"{gap:.8g}"
    data.PixelSpacing = [f"{pixel:.8g}"] * 2
    data.Rows = data.Columns = matrix
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelRepresentation = 0
    data.RescaleIntercept = _INTERCEPT
    data.RescaleSlope = 1
    data.RescaleType = "HU"
    data.WindowCenter, data.WindowWidth = -600, 1500


def _stored(hu: NDArray[np.float32]) -> NDArray[np.uint16]:
    stored = np.clip(np.rint(hu) - _INTERCEPT, 0, _LARGEST_STORED)
    return np.asarray(stored, np.dtype("<u2"))


def _save(data: Dataset, path: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = data.SOPClassUID
    meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _IMPLEMENTATION
    data.file_meta = meta
    data.save_as(path, enforce_file_format=True)
