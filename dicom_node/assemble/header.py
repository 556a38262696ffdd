"""The header of a received file: read once, normalised once (PS3.10 section 7, PS3.3 C.12)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from hashlib import file_digest, sha256
from pathlib import Path
from struct import error as StructError
from typing import Any
from zlib import error as DeflateError

from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.multival import MultiValue

from dicom_node.domain.study import MODALITY_OF_SOP_CLASS, InstanceRecord, role_of
from dicom_node.errors import BadInput

# What the rules, the models' intended use and an administrator ask about; no names, no dates of
# birth. Keywords that the configured rules read are added.
RECORDED_KEYWORDS = frozenset(
    [
        "Modality",
        "BodyPartExamined",
        "ViewPosition",
        "ImageType",
        "PresentationIntentType",
        "PatientAge",
        "PatientSex",
        "StudyDescription",
        "SeriesDescription",
        "ProtocolName",
        "SeriesNumber",
        "InstanceNumber",
        "Rows",
        "Columns",
        "NumberOfFrames",
        "BitsStored",
        "PhotometricInterpretation",
        "SliceThickness",
        "SpacingBetweenSlices",
        "PixelSpacing",
        "ImagerPixelSpacing",
        "ConvolutionKernel",
        "ContrastBolusAgent",
        "Manufacturer",
        "ManufacturerModelName",
        "BurnedInAnnotation",
    ]
)
_REQUIRED_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_IDENTITY = ("PatientID", "IssuerOfPatientID", "PatientBirthDate")
# What pydicom lets out on malformed data sets, in all that this module calls.
_UNREADABLE = (
    InvalidDicomError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    OSError,
    AttributeError,
    ArithmeticError,
    NotImplementedError,
    RecursionError,
    StructError,
    DeflateError,
)
_UID_PATTERN = re.compile(r"[0-9.]{1,64}")
_PREAMBLE_BYTES = 132
_GROUP_LENGTH_BYTES = 12


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a file came: its association and when."""

    association: str
    received_at: datetime


def read_header(path: Path, arrival: Arrival, *, keywords: Iterable[str] = ()) -> InstanceRecord:
    """Read one received Part 10 file without its pixels; its place in the store is still empty.

    Parameters
    ----------
    keywords
        Further DICOM keywords to record for the rules.

    Raises
    ------
    BadInput
        Not readable as DICOM, a missing or malformed UID, or a SOP Instance UID that differs from
        the one announced in C-STORE.
    """
    try:
        dataset = dcmread(path, stop_before_pixels=True)
    except _UNREADABLE as error:
        raise BadInput(
            f"the data set's header cannot be read ({type(error).__name__}); send the image again"
        ) from error
    uids = {name: _uid(dataset, name) for name in _REQUIRED_UIDS}
    announced = str(dataset.file_meta.get("MediaStorageSOPInstanceUID", ""))
    if announced != uids["SOPInstanceUID"]:
        raise BadInput("SOPInstanceUID (0008,0018) differs from the one announced in C-STORE")
    header = _header(dataset, frozenset(keywords) | RECORDED_KEYWORDS)
    header.setdefault("Modality", MODALITY_OF_SOP_CLASS.get(dataset.SOPClassUID, ""))
    return InstanceRecord(
        study_instance_uid=uids["StudyInstanceUID"],
        series_instance_uid=uids["SeriesInstanceUID"],
        sop_instance_uid=uids["SOPInstanceUID"],
        sop_class_uid=uids["SOPClassUID"],
        transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
        digest=_digest(path, str(dataset.file_meta.TransferSyntaxUID)),
        identity_digest=_identity_digest(dataset),
        has_patient_id=bool(_text(dataset, "PatientID")),
        role=role_of(uids["SOPClassUID"], header["Modality"]),
        header=header,
        path="",
        size=path.stat().st_size,
        association=arrival.association,
        calling_ae_title=str(dataset.file_meta.get("SourceApplicationEntityTitle", "")).strip(),
        received_at=arrival.received_at,
    )


def sender_of(path: Path) -> str:
    """Calling AE title from the file meta information that the receiver wrote, or nothing."""
    try:
        return str(read_file_meta_info(path).get("SourceApplicationEntityTitle", "")).strip()
    except _UNREADABLE:
        return ""


def _uid(dataset: Dataset, keyword: str) -> str:
    value = _text(dataset, keyword)
    if not _UID_PATTERN.fullmatch(value):
        state = "malformed" if value else "missing"
        raise BadInput(f"{keyword} is {state}; correct it at the source and send again")
    return value


def _text(dataset: Dataset, keyword: str) -> str:
    try:
        return str(dataset.get(keyword) or "").strip()
    except _UNREADABLE:
        return ""


def _identity_digest(dataset: Dataset) -> str:
    return sha256("\0".join(_text(dataset, name) for name in _IDENTITY).encode()).hexdigest()


def _digest(path: Path, transfer_syntax_uid: str) -> str:
    """SHA-256 of the transfer syntax UID and the data set's bytes, without the file meta: the same
    data set from another sender is the same."""
    with path.open("rb") as file:
        head = file.read(_PREAMBLE_BYTES + _GROUP_LENGTH_BYTES)
        length = int.from_bytes(head[-4:], "little")
        file.seek(length, 1)
        body = file_digest(file, "sha256").digest()
    return sha256(transfer_syntax_uid.encode() + b"\0" + body).hexdigest()


def _header(dataset: Dataset, keywords: Iterable[str]) -> dict[str, Any]:
    header = {}
    for keyword in sorted(keywords):
        try:
            value = _plain(dataset.get(keyword), dictionary_VR(keyword))
        except _UNREADABLE:
            continue  # an unreadable optional value counts as absent
        if value not in (None, "", []):
            header[keyword] = value
    return header


def _plain(value: Any, vr: str) -> Any:
    if isinstance(value, MultiValue | list | tuple):
        return [_plain(item, vr) for item in value]
    if value is None or value == "":
        return None
    if vr in {"DS", "FL", "FD"}:
        return float(value)
    if vr in {"IS", "US", "SS", "UL", "SL"}:
        return int(value)
    return str(value).strip()
