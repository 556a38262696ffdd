"""The head that is written before a received data set."""

from __future__ import annotations

from io import BytesIO

from pydicom import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from dicom_node.receive.part10 import Announcement, Peer, part10_head


def test_the_head_names_object_syntax_sender_and_receiver() -> None:
    head = part10_head(
        Peer("MODALITY1", "NODE", "10.0.0.7", 4242),
        Announcement(CTImageStorage, "1.2.3.45", ExplicitVRLittleEndian),
    )
    meta = dcmread(BytesIO(head)).file_meta
    assert meta.MediaStorageSOPClassUID == CTImageStorage
    assert meta.MediaStorageSOPInstanceUID == "1.2.3.45"
    assert meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert meta.SourceApplicationEntityTitle == "MODALITY1"
    assert meta.SendingApplicationEntityTitle == "MODALITY1"
    assert meta.ReceivingApplicationEntityTitle == "NODE"
    assert meta.SourcePresentationAddress == "dicom://10.0.0.7:4242"
    assert meta.FileMetaInformationVersion == b"\x00\x01"
    assert 128 + 4 + 12 + meta.FileMetaInformationGroupLength == len(head)


def test_an_ipv6_address_is_bracketed() -> None:
    assert Peer("A", "B", "::1", 104).presentation_address == "dicom://[::1]:104"
