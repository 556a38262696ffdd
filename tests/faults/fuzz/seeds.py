"""Small synthetic files to start from: no patient, no real image."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from io import BytesIO

import numpy as np
import yaml
from pydicom import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node.paths import SHIPPED_CONFIG
from dicom_node.receive.part10 import Announcement, Peer, part10_head
from tests.faults.peers.peer import (
    CR_IMAGE,
    CT_IMAGE,
    ROOT,
    associate_rq,
    c_echo_rq,
    c_store_rq,
    data_set,
    element,
    nested_sequences,
    p_data,
    pdu,
    pdv,
)

SENDER = Peer("FUZZER", "NODE", "127.0.0.1", 104)
UID = f"{ROOT}.1"


def part10(
    content: bytes, *, sop_class: str = CR_IMAGE, syntax: str = ExplicitVRLittleEndian
) -> bytes:
    """A file as the receiver writes it."""
    return part10_head(SENDER, Announcement(sop_class, UID, syntax)) + content


def _image(syntax: str, *, rows: int = 16, bits: int = 12) -> bytes:
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = CT_IMAGE, UID
    image.StudyInstanceUID, image.SeriesInstanceUID = f"{UID}.1", f"{UID}.2"
    image.SpecificCharacterSet = "ISO_IR 192"
    image.Modality, image.PatientName, image.PatientID = "CT", "Fuzz^Ünit", "F1"
    image.PatientBirthDate, image.PatientAge, image.PatientSex = "20000101", "025Y", "O"
    image.ImageType, image.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], 1
    image.ImagePositionPatient, image.PixelSpacing = [0, 0, 1.5], [0.7, 0.7]
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.RescaleSlope, image.RescaleIntercept = 1, -1024
    image.WindowCenter, image.WindowWidth = [40, 400], [80, 1500]
    image.Rows = image.Columns = rows
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, bits, bits - 1
    image.PixelRepresentation = 0
    pixels = (np.arange(rows * rows, dtype=np.uint16) * 7 % (1 << bits)).reshape(rows, rows)
    image.PixelData = pixels.tobytes()
    image["PixelData"].VR = "OW"
    image.file_meta = Dataset()  # type: ignore[assignment]
    if syntax in {RLELossless, JPEGLSLossless, JPEG2000Lossless}:
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.compress(syntax, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        image.PixelData = pixels.byteswap().tobytes()
    written = BytesIO()
    deflated = syntax == DeflatedExplicitVRLittleEndian
    image.save_as(
        written,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
    )
    content = written.getvalue()
    meta_end = (
        content.index(struct.pack("<HH", 8, 5))
        if syntax != ExplicitVRBigEndian
        else (content.index(struct.pack(">HH", 8, 5)))
    )
    content = content[meta_end:]
    if deflated:
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        content = packer.compress(content) + packer.flush()
    return part10(content, sop_class=CT_IMAGE, syntax=syntax)


def files() -> list[bytes]:
    """Part 10 files in every kind of encoding."""
    syntaxes: Sequence[str] = (
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
    )
    more = [
        nested_sequences(3, explicit_length=False),
        nested_sequences(3, explicit_length=True),
        element(0x00291010, b"UN", b"\xfe\xff\0\xe0\0\0\0\0", length=0xFFFFFFFF),
    ]
    private = [
        part10(data_set(UID, sop_class=CR_IMAGE, before_pixels=extra)[:1500]) for extra in more
    ]
    return [*map(_image, syntaxes), _image(JPEG2000Lossless, rows=64), *private]


def conversations() -> list[bytes]:
    """All that a right sender says on one connection."""
    store = p_data(pdv(1, 3, c_store_rq(UID))) + p_data(pdv(1, 2, data_set(UID)[:700]))
    echo = p_data(pdv(3, 3, c_echo_rq()))
    release, abort = pdu(0x05, bytes(4)), pdu(0x07, bytes(4))
    return [
        associate_rq() + echo + release,
        associate_rq() + store + echo + release,
        associate_rq() + store + store + abort,
        associate_rq() + p_data(pdv(3, 1, c_echo_rq()[:30]), pdv(3, 3, c_echo_rq()[30:])) + release,
    ]


def rules() -> list[bytes]:
    """The shipped rules, whole and one at a time, and one with an expression."""
    shipped = (SHIPPED_CONFIG / "routes.yaml").read_text(encoding="utf-8")
    routes = yaml.safe_load(shipped)["routes"]
    single = [yaml.safe_dump({"routes": [route]}) for route in routes]
    expression = routes[0] | {"expression": "SliceThickness * 2.0 <= SpacingBetweenSlices"}
    return [text.encode() for text in (*single, yaml.safe_dump({"routes": [expression]}))]


def settings() -> list[bytes]:
    """The shipped settings."""
    return [(SHIPPED_CONFIG / "node.yaml").read_bytes()]
