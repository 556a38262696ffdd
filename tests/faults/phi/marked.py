"""Studies of patients whose every word is a marker that occurs nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydicom import Dataset, dcmread
from pydicom.dataelem import DataElement
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless

from dicom_node.demo.phantom import derived_uid
from tests.attributes import change
from tests.e2e.studies import small_radiograph

MARKERS: Final = {
    "name": "ZQXNAME",
    "identifier": "ZQXID4711",
    "birth date": "18770717",
    "accession": "ZQXACC",
    "physician": "ZQXDOC",
    "comment": "ZQXCOMMENT",
    "private": "ZQXPRIVATE",
    "nested": "ZQXNESTED",
    "number": "ZQXNUMBER",
    "institution": "ZQXHOSPITAL",
    "device": "ZQXDEVICE",
}
"""What is nowhere but in data sets and in the audit trail."""

DESCRIPTION: Final = "ZQXDESCRIBED"
"""Study, series and protocol description: free text that the rules may ask about, which is why the
database keeps it with each instance and in the reasons of the rules."""


def marked(seed: str, **values: Any) -> Dataset:
    """A radiograph in scope of the shipped model, with a marker in every attribute about people.

    A value of None removes the attribute.
    """
    made = small_radiograph(seed)
    made.SpecificCharacterSet = "ISO_IR 192"
    made.PatientName = f"{MARKERS['name']}^Ä^^=山田"
    made.PatientID, made.IssuerOfPatientID = MARKERS["identifier"], MARKERS["institution"]
    made.PatientBirthDate = MARKERS["birth date"]
    made.AccessionNumber = MARKERS["accession"]
    made.ReferringPhysicianName = made.OperatorsName = f"{MARKERS['physician']}^A"
    made.PatientComments = made.ImageComments = f"{MARKERS['comment']} has a cough"
    made.PatientAddress = made.InstitutionName = MARKERS["institution"]
    made.StationName = MARKERS["device"]
    made.StudyDescription = made.SeriesDescription = made.ProtocolName = DESCRIPTION
    made.private_block(0x0011, "ACME 1.0", create=True).add_new(0x01, "LO", MARKERS["private"])
    inner = Dataset()
    inner.PatientID, inner.TypeOfPatientID = MARKERS["nested"], "TEXT"
    made.OtherPatientIDsSequence = Sequence([inner])
    return change(made, values)


def _with_bad_numbers(seed: str) -> Dataset:
    """Numbers that are none: libraries quote them in warnings and errors."""
    made = marked(seed)
    for tag, vr in ((0x00181164, "DS"), (0x00281050, "DS"), (0x00200013, "IS")):
        element = DataElement(tag, "SH", MARKERS["number"])
        element.VR = vr
        made[tag] = element
    made.StudyDate = made.StudyTime = MARKERS["number"]
    return made


def write_studies(folder: Path) -> dict[str, Path]:
    """Write one file for each way through the node; returns name to file."""
    folder.mkdir()
    files = {}
    for name, made in _studies():
        files[name] = folder / f"{name}.dcm"
        made.save_as(files[name], enforce_file_format=False)
    files["torn"] = _torn(folder)
    return files


def _studies() -> Iterator[tuple[str, Dataset]]:
    yield "scored", marked("phi-scored")
    yield "no pixels", marked("phi-none", PixelData=None)
    yield "cut pixels", marked("phi-cut", PixelData=MARKERS["comment"].encode() * 9)
    undecodable = marked("phi-codec")
    undecodable.file_meta.TransferSyntaxUID = JPEG2000Lossless
    undecodable.PixelData = encapsulate([MARKERS["comment"].encode()])
    undecodable["PixelData"].is_undefined_length = True
    undecodable["PixelData"].VR = "OB"
    yield "undecodable", undecodable
    yield "bad numbers", _with_bad_numbers("phi-numbers")
    yield "conflict 1", marked("phi-both")
    other = marked("phi-other", StudyInstanceUID=derived_uid("phi-both", "study"))
    other.PatientID, other.PatientBirthDate = "ZQXID4711B", "18770717"
    yield "conflict 2", other
    yield "no study", marked("phi-no-study", StudyInstanceUID=None)
    yield "no route", marked("phi-no-route", Modality="ES", BodyPartExamined="ABDOMEN")
    out_of_scope = marked("phi-scope")
    out_of_scope.PatientAge = "090Y"
    yield "out of scope", out_of_scope


def _torn(folder: Path) -> Path:
    """A data set whose bytes end in the middle of a name."""
    path = folder / "torn.dcm"
    made = marked("phi-torn")
    made.save_as(path)
    content = path.read_bytes()
    assert dcmread(path).PatientName
    path.write_bytes(content[: content.index(b"ZQXNAME") + 4])
    return path
