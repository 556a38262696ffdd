"""The phantom is valid CT, says that it is one, and is the same for the same seed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from dicom_node.demo.phantom import derived_uid, extend_series, write_thorax_phantom

NOW = datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC)
DATA = Path(os.environ.get("DICOM_NODE_DATA", Path(__file__).parents[4] / "shared" / "data"))
REAL = DATA / "dicom" / "ct_chest"
DCIODVFY = shutil.which("dciodvfy") or shutil.which("dciodvfy", path=str(Path(sys.prefix) / "bin"))


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_thorax_phantom(
        tmp_path_factory.mktemp("phantom"), seed="a", now=NOW, slices=12, matrix=128
    )


def test_every_slice_says_that_it_is_a_phantom(phantom: list[Path]) -> None:
    for path in phantom:
        data = pydicom.dcmread(path, stop_before_pixels=True)
        assert data.PatientName == "PHANTOM^THORAX"
        assert data.PatientID == "PHANTOM-CT"
        assert data.StudyDescription == "THORAX PHANTOM (SYNTHETIC)"
        assert (data.SyntheticData, data.QualityControlImage) == ("YES", "YES")
        assert data.ImageType[0] == "DERIVED"
        assert (data.Modality, data.BodyPartExamined, data.PatientAge) == ("CT", "CHEST", "055Y")


def test_the_slices_form_one_evenly_spaced_series(phantom: list[Path]) -> None:
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in phantom]
    heights = [float(data.ImagePositionPatient[2]) for data in headers]
    assert np.diff(heights) == pytest.approx(np.full(11, 20.0))
    assert [data.InstanceNumber for data in headers] == list(range(1, 13))
    assert len({data.SOPInstanceUID for data in headers}) == 12
    assert len({(data.StudyInstanceUID, data.SeriesInstanceUID) for data in headers}) == 1


def test_its_tissues_have_the_densities_of_a_chest(phantom: list[Path]) -> None:
    middle = pydicom.dcmread(phantom[6])
    hu = middle.pixel_array.astype(float) + float(middle.RescaleIntercept)
    assert (hu < -950).mean() > 0.3
    assert 0.1 < ((hu > -950) & (hu < -600)).mean() < 0.3
    assert ((hu > 0) & (hu < 100)).mean() > 0.1
    assert (hu > 400).mean() > 0.002


def test_the_same_seed_writes_the_same_bytes_and_another_seed_another_study(
    phantom: list[Path], tmp_path: Path
) -> None:
    again = write_thorax_phantom(tmp_path / "a", seed="a", now=NOW, slices=12, matrix=128)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in phantom]
    other = write_thorax_phantom(tmp_path / "b", seed="b", now=NOW, slices=2, matrix=32)
    first, second = pydicom.dcmread(phantom[0]), pydicom.dcmread(other[0])
    assert first.StudyInstanceUID != second.StudyInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID


def test_seed_kind_and_index_cannot_be_shifted_into_one_another() -> None:
    uids = {derived_uid("ab", "c", 1), derived_uid("a", "b/c", 1), derived_uid("ab/c", "1")}
    assert len(uids) == 3
    assert all(uid.is_valid and uid.startswith("2.25.") for uid in uids)


@pytest.mark.skipif(DCIODVFY is None, reason="dciodvfy is not installed")
def test_the_validator_finds_no_error_and_no_warning(phantom: list[Path]) -> None:
    done = subprocess.run(
        [str(DCIODVFY), str(phantom[5])], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0
    assert "Error" not in done.stderr
    assert "Warning" not in done.stderr


def test_a_naive_time_or_a_single_slice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="aware time"):
        write_thorax_phantom(tmp_path, seed="a", now=NOW.replace(tzinfo=None))
    with pytest.raises(ValueError, match="at least 2 slices"):
        write_thorax_phantom(tmp_path, seed="a", now=NOW, slices=1)


def test_a_slice_becomes_a_series_with_new_places_and_uids(tmp_path: Path) -> None:
    source = Path(str(get_testdata_file("CT_small.dcm")))
    paths = extend_series([source], tmp_path, 7, seed="x", gap_mm=2.0)
    headers = [pydicom.dcmread(path) for path in paths]
    assert np.diff([float(data.ImagePositionPatient[2]) for data in headers]) == pytest.approx(2.0)
    assert [data.InstanceNumber for data in headers] == list(range(1, 8))
    assert len({data.SOPInstanceUID for data in headers}) == 7
    assert {data.StudyInstanceUID for data in headers} == {derived_uid("x", "study")}
    assert {data.SeriesInstanceUID for data in headers} == {derived_uid("x", "series")}
    for data in headers:
        assert data.file_meta.MediaStorageSOPInstanceUID == data.SOPInstanceUID
        assert data.PixelData == pydicom.dcmread(source).PixelData


def test_without_a_distance_or_slices_there_is_no_series(
    tmp_path: Path, phantom: list[Path]
) -> None:
    data = pydicom.dcmread(phantom[0])
    del data.SliceThickness
    data.save_as(tmp_path / "bare.dcm")
    with pytest.raises(ValueError, match="no Slice Thickness"):
        extend_series([tmp_path / "bare.dcm"], tmp_path, 3, seed="x")
    with pytest.raises(ValueError, match="at least one slice"):
        extend_series([], tmp_path, 3, seed="x")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real slices are not here")
def test_real_slices_are_taken_to_and_fro_and_keep_their_sparse_headers(tmp_path: Path) -> None:
    source = sorted(REAL.glob("lung_base*.dcm"))
    paths = extend_series(source, tmp_path / "base", 8, seed="x")
    pixels = [pydicom.dcmread(path).PixelData for path in paths]
    originals = [pydicom.dcmread(path).PixelData for path in source]
    assert pixels == [originals[index] for index in (0, 1, 2, 1, 0, 1, 2, 1)]
    sparse = extend_series(sorted(REAL.glob("contrast*.dcm")), tmp_path / "sparse", 4, seed="y")
    assert "Modality" not in pydicom.dcmread(sparse[3], stop_before_pixels=True)
