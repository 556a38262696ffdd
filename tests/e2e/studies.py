"""Studies to send: the real radiograph and real CT slices, under UIDs of their own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file

from dicom_node.demo.phantom import derived_uid, extend_series
from tests.attributes import change

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("DICOM_NODE_DATA", REPOSITORY.parent / "shared" / "data"))
CT_SLICES = 40


def rg1() -> Path:
    """The real CR chest radiograph of pydicom-data (an adult)."""
    found = get_testdata_file("RG1_UNCR.dcm", download=False)
    assert found is not None, "pydicom-data is part of the dev extra"
    return Path(found)


def real_ct(folder: Path, seed: str, count: int = CT_SLICES) -> list[Path]:
    """A series of `count` slices made of the real lung base slices."""
    slices = sorted((DATA / "dicom" / "ct_chest").glob("lung_base_*.dcm"))
    if not slices:
        if os.environ.get("CI"):
            pytest.fail(f"no CT slices under {DATA}")
        pytest.skip(f"no CT slices under {DATA}; set DICOM_NODE_DATA")
    folder.mkdir(parents=True, exist_ok=True)
    return extend_series(slices, folder, count, seed=seed)


def radiograph(folder: Path, seed: str, **values: Any) -> Path:
    """RG1 at a quarter of its size as a child's film, with its own UIDs and changed attributes.

    A value of None removes the attribute.
    """
    made = small_radiograph(seed)
    change(made, values)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{seed}.dcm"
    made.save_as(path)
    return path


def small_radiograph(seed: str) -> Dataset:
    """The data set behind `radiograph`: by its header in scope for the shipped CXR model."""
    made = dcmread(rg1())
    pixels = np.ascontiguousarray(made.pixel_array[::4, ::4])
    made.Rows, made.Columns = pixels.shape
    made.PixelData = pixels.tobytes()
    made.PatientAge, made.PatientBirthDate = "003Y", "20010305"
    made.StudyInstanceUID = derived_uid(seed, "study")
    made.SeriesInstanceUID = derived_uid(seed, "series")
    made.SOPInstanceUID = derived_uid(seed, "instance")
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made
