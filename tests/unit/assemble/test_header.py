"""Reading the header of a received file once, and refusing what cannot be trusted."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.assemble.header import Arrival, read_header, sender_of
from dicom_node.domain.study import Role
from dicom_node.errors import BadInput
from tests.attributes import change

ARRIVAL = Arrival("assoc-1", datetime(2026, 1, 1, tzinfo=UTC))


def dataset(**values: Any) -> Dataset:
    made = Dataset()
    made.SOPClassUID = CTImageStorage
    made.SOPInstanceUID = "1.2.3.4"
    made.StudyInstanceUID = "1.2"
    made.SeriesInstanceUID = "1.2.3"
    made.PatientID = "MRN-1"
    return change(made, values)


def written(folder: Path, made: Dataset, *, syntax: str = ExplicitVRLittleEndian) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    meta.TransferSyntaxUID = syntax
    meta.SourceApplicationEntityTitle = "PACS"
    made.file_meta = meta
    path = folder / "000001.dcm"
    made.save_as(path, enforce_file_format=True)
    return path


def test_a_real_radiograph_is_read_with_what_the_rules_need_and_no_name() -> None:
    source = get_testdata_file("RG1_UNCR.dcm", download=False)
    assert source is not None
    record = read_header(Path(source), ARRIVAL)
    assert record.header["Modality"] == "CR"
    assert record.header["ImageType"] == ["DERIVED", "PRIMARY"]
    assert record.header["Rows"] == 1955
    assert record.has_patient_id
    name = str(dcmread(source, stop_before_pixels=True).PatientName)
    assert name not in str(record)


def test_sparse_headers_are_enough(tmp_path: Path) -> None:
    record = read_header(written(tmp_path, dataset(PatientID=None, InstanceNumber="")), ARRIVAL)
    assert record.header["Modality"] == "CT"  # from the SOP class
    assert "InstanceNumber" not in record.header
    assert not record.has_patient_id
    assert record.calling_ae_title == "PACS"
    assert record.role is Role.IMAGE


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID"])
def test_a_missing_uid_is_named(tmp_path: Path, keyword: str) -> None:
    with pytest.raises(BadInput, match=f"{keyword} is missing"):
        read_header(written(tmp_path, dataset(**{keyword: None})), ARRIVAL)


def test_a_uid_with_path_parts_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Invalid value for VR UI"):
        path = written(tmp_path, dataset(StudyInstanceUID="../../etc"))
    with pytest.raises(BadInput, match="StudyInstanceUID is malformed"):
        read_header(path, ARRIVAL)


def test_another_instance_than_announced_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, dataset())
    announced = dcmread(path)
    announced.file_meta.MediaStorageSOPInstanceUID = "9.9"
    announced.save_as(path)
    with pytest.raises(BadInput, match="differs from the one announced"):
        read_header(path, ARRIVAL)


def test_a_file_cut_in_its_header_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, dataset())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInput):
        read_header(path, ARRIVAL)


def test_the_digest_is_of_data_set_and_syntax_not_of_who_sent_it(tmp_path: Path) -> None:
    first = read_header(written(tmp_path, dataset()), ARRIVAL)
    path = tmp_path / "000001.dcm"
    other = dcmread(path)
    other.file_meta.SourceApplicationEntityTitle = "SOMEONE_ELSE"
    other.save_as(path)
    assert read_header(path, ARRIVAL).digest == first.digest
    implicit = read_header(written(tmp_path, dataset(), syntax=ImplicitVRLittleEndian), ARRIVAL)
    assert implicit.digest != first.digest


@pytest.mark.parametrize("keyword", ["PatientID", "IssuerOfPatientID", "PatientBirthDate"])
def test_identity_is_patient_id_issuer_and_birth_date(tmp_path: Path, keyword: str) -> None:
    first = read_header(written(tmp_path, dataset()), ARRIVAL)
    second = read_header(written(tmp_path, dataset(**{keyword: "19990101"})), ARRIVAL)
    assert first.identity_digest != second.identity_digest


@pytest.mark.parametrize("modality", ["SR", "OT", "SEG", "PR", "KO", "DOC"])
def test_results_of_others_are_recognised(tmp_path: Path, modality: str) -> None:
    assert read_header(written(tmp_path, dataset(Modality=modality)), ARRIVAL).role is Role.RESULT


@pytest.mark.parametrize(
    "sop_class", ["7", "7.4", "11.1", "66.4", "88.34", "104.1"], ids=lambda part: f"class {part}"
)
def test_companions_are_recognised_by_class_whatever_their_modality_says(
    tmp_path: Path, sop_class: str
) -> None:
    made = dataset(SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{sop_class}", Modality="CR")
    assert read_header(written(tmp_path, made), ARRIVAL).role is Role.RESULT


def test_a_data_set_nested_without_end_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, dataset())
    level = b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(path.read_bytes() + level * 5000)
    with pytest.raises(BadInput):
        read_header(path, ARRIVAL)
    assert sender_of(path) == "PACS"
