"""The rule in config/orthanc by which Orthanc forwards images, tried on a real Orthanc.

DCMTK's storescp stands for the node here, so what arrives is counted by somebody else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from tests.e2e.harness import StoreScp, free_port, storescu, wait_for
from tests.integration.orthanc import Orthanc

pytestmark = [pytest.mark.orthanc, pytest.mark.dcmtk]

StartOrthanc = Callable[..., Orthanc]
StartStorescp = Callable[..., StoreScp]
FORWARD_SECONDS = 60.0
QUIET_SECONDS = 4.0  # four times the StableAge of these tests


@pytest.fixture
def radiograph() -> Path:
    """The CR chest radiograph RG1."""
    return Path(str(get_testdata_file("RG1_UNCR.dcm", download=False)))


@pytest.fixture
def forwarded(
    start_orthanc: StartOrthanc, start_storescp: StartStorescp, radiograph: Path
) -> tuple[Orthanc, StoreScp]:
    """An Orthanc that has forwarded RG1, and the stand-in for the node that has it."""
    node = start_storescp()
    orthanc = start_orthanc(node_port=node.port)
    orthanc.upload(radiograph)
    wait_for(lambda: orthanc.transfers() == ["Success"], FORWARD_SECONDS, "RG1 is forwarded")
    return orthanc, node


def made_in_study_of(source: Path, sop_class: str, modality: str, **attributes: Any) -> bytes:
    """An instance in a new series of the source's study, as a Part 10 file."""
    made = Dataset()
    header = dcmread(source, stop_before_pixels=True)
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "StudyID", "AccessionNumber"):
        setattr(made, keyword, getattr(header, keyword))
    made.SOPClassUID = sop_class
    made.SOPInstanceUID = generate_uid()
    made.SeriesInstanceUID = generate_uid()
    made.Modality = modality
    made.InstanceNumber = 1
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    if "Rows" in attributes:
        made.SamplesPerPixel = 1
        made.PhotometricInterpretation = "MONOCHROME2"
        made.BitsAllocated, made.BitsStored, made.HighBit = 16, 16, 15
        made.PixelRepresentation = 0
        made.PixelData = bytes(2 * made.Rows * made.Columns)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def received(node: StoreScp) -> dict[str, bytes]:
    """SOP Instance UID to pixel bytes of everything that the stand-in for the node has."""
    found = [dcmread(path) for path in node.files()]
    return {str(item.SOPInstanceUID): item.PixelData for item in found}


def assert_nothing_more_comes(node: StoreScp, count: int) -> None:
    """Watch for a few times the StableAge."""
    deadline = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < deadline:
        assert len(node.files()) == count
        time.sleep(0.2)


def test_a_stable_study_arrives_once_and_results_in_it_are_not_forwarded(
    forwarded: tuple[Orthanc, StoreScp], radiograph: Path
) -> None:
    orthanc, node = forwarded
    sent = dcmread(radiograph)
    assert received(node) == {str(sent.SOPInstanceUID): sent.PixelData}

    derived = {"ImageType": ["DERIVED", "SECONDARY", "OTHER"], "Rows": 8, "Columns": 8}
    orthanc.upload(made_in_study_of(radiograph, SecondaryCaptureImageStorage, "OT", **derived))
    orthanc.upload(made_in_study_of(radiograph, BasicTextSRStorage, "SR"))
    # A capture that claims to be a radiograph: the SOP class decides, not the Modality.
    orthanc.upload(made_in_study_of(radiograph, SecondaryCaptureImageStorage, "CR", **derived))
    wait_for(
        lambda: orthanc.is_stable(sent.StudyInstanceUID),
        FORWARD_SECONDS,
        "the study is stable again",
    )
    assert_nothing_more_comes(node, 1)
    assert orthanc.transfers() == ["Success"]
    assert orthanc.modalities(sent.StudyInstanceUID) == {"CR": 2, "OT": 1, "SR": 1}


def test_sending_the_same_image_again_forwards_nothing(
    forwarded: tuple[Orthanc, StoreScp], radiograph: Path
) -> None:
    orthanc, node = forwarded
    orthanc.upload(radiograph)
    assert_nothing_more_comes(node, 1)
    assert orthanc.transfers() == ["Success"]


def test_late_images_are_forwarded_without_the_series_that_went_before(
    forwarded: tuple[Orthanc, StoreScp], radiograph: Path
) -> None:
    orthanc, node = forwarded
    late = made_in_study_of(radiograph, CTImageStorage, "CT", Rows=8, Columns=8)
    orthanc.upload(late)
    wait_for(
        lambda: orthanc.transfers() == ["Success"] * 2,
        FORWARD_SECONDS,
        "the late image is forwarded",
    )
    late_uid = str(dcmread(BytesIO(late)).SOPInstanceUID)
    assert set(received(node)) == {str(dcmread(radiograph).SOPInstanceUID), late_uid}
    sent_last = max(orthanc.get("/jobs?expand"), key=lambda job: job["CreationTime"])
    assert sent_last["Content"]["InstancesCount"] == 1


def test_nothing_goes_back_to_the_node_that_it_sent_itself(
    start_orthanc: StartOrthanc, start_storescp: StartStorescp, radiograph: Path
) -> None:
    node = start_storescp()
    orthanc = start_orthanc(node_port=node.port)
    storescu(orthanc.dicom_port, [radiograph], "-aet", "DICOM_NODE")
    assert_nothing_more_comes(node, 0)
    assert orthanc.transfers() == []


def test_a_node_that_was_down_gets_the_study_when_it_is_back_also_after_orthanc_restarted(
    start_orthanc: StartOrthanc, start_storescp: StartStorescp, radiograph: Path
) -> None:
    port = free_port()
    orthanc = start_orthanc(node_port=port)
    orthanc.upload(radiograph)
    wait_for(lambda: "Failure" in orthanc.transfers(), FORWARD_SECONDS, "the transfer fails")
    orthanc.stop()
    orthanc.start()
    node = start_storescp(port=port)
    # Looking at the jobs is an HTTP request, like the health check of docker-compose.yml.
    wait_for(
        lambda: orthanc.transfers() == ["Success"], FORWARD_SECONDS, "the transfer is repeated"
    )
    assert len(node.files()) == 1
    assert_nothing_more_comes(node, 1)
