"""An SCU that is not ours finds what the conformance statement says, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    UltrasoundImageStorage,
    generate_uid,
)

from dicom_node.cli.conformance_statement import conformance_statement
from dicom_node.config import NodeConfig

pytestmark = pytest.mark.dcmtk

UNKNOWN_TO_DCMTK_3_6_7 = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (201, 202, 203))

OF_A_PLAIN_DATA_SET = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
)


def written(folder: Path, sop_class: str, transfer_syntax: str) -> Path:
    """A file without pixels: the receiver decodes nothing."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = transfer_syntax
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data_set = Dataset()
    data_set.file_meta = meta
    data_set.SOPClassUID, data_set.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID = generate_uid(), generate_uid()
    data_set.PatientID = "1"
    place = folder / f"{sop_class}_{transfer_syntax}.dcm"
    if transfer_syntax in OF_A_PLAIN_DATA_SET:
        data_set.save_as(place, enforce_file_format=True)
    else:  # the data set of a compressed image is explicit VR little endian
        data_set.save_as(place, enforce_file_format=True, implicit_vr=False, little_endian=True)
    return place


def stated(table_after: str) -> list[str]:
    """UIDs of the first table after some words of the statement."""
    text = conformance_statement(NodeConfig()).partition(table_after)[2]
    lines = text.partition("| --- |")[2].partition("\n\n")[0]
    return re.findall(r"`([\d.]+)`", lines)


def test_every_stated_class_and_transfer_syntax_is_taken_and_no_other(
    start_receiver: Callable, wait_for_endings: Callable, tool: Callable, tmp_path: Path
) -> None:
    _, node = start_receiver()
    classes = stated("### Presentation contexts")[1:]  # the first is Verification
    syntaxes = stated("where one context offers")
    assert len(classes) >= 21
    assert len(syntaxes) == 16
    kinds = [(sop_class, ExplicitVRLittleEndian) for sop_class in classes]
    kinds += [(CTImageStorage, syntax) for syntax in syntaxes if syntax != ExplicitVRLittleEndian]
    known = [kind for kind in kinds if kind[1] not in UNKNOWN_TO_DCMTK_3_6_7]
    others = [(uid, ExplicitVRLittleEndian) for uid in (MRImageStorage, UltrasoundImageStorage)]
    for folder, some in (("stated", known), ("others", others)):
        (tmp_path / folder).mkdir()
        for kind in some:
            written(tmp_path / folder, *kind)
    port = str(node.port)
    words = ("dcmsend", "--scan-directories", "--decompress-never", "127.0.0.1", port)
    sent = tool(*words, str(tmp_path / "stated"))
    assert sent.returncode == 0, sent.stderr
    listings = wait_for_endings(1)
    assert sum(len(listing.files) for listing in listings) == len(known)
    refused = tool(*words, str(tmp_path / "others"))
    assert "No Acceptable Presentation Contexts" in refused.stderr
    assert tool("echoscu", "127.0.0.1", port).returncode == 0
