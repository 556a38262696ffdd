"""The header of a received file: read once, normalised once (PS3.10 section 7, PS3.3 C.12)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from struct import error as StructError
from typing import Any, BinaryIO
from zlib import error as DeflateError

from pydicom import Dataset, FileMetaDataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.multival import MultiValue
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from dicom_node.assemble.elements import Encoding, InflatedStream, PlainStream, excerpt
from dicom_node.assemble.identity import IDENTITY, NAME, identity_digest, name_digests
from dicom_node.domain.study import MODALITY_OF_SOP_CLASS, InstanceRecord, role_of
from dicom_node.errors import BadInput
from dicom_node.store.digests import data_set_digest

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
# What pydicom lets out on malformed data sets, in all that this module calls.
_UNREADABLE = (
    BytesLengthException,
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
_SPECIFIC_CHARACTER_SET = 0x00080005
_LONGEST_TEXT = 1024  # PS3.5 6.2: 64 characters in most; nothing that rules ask about has more
_MOST_VALUES = 64


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
        Not readable as DICOM, a missing or malformed UID, or SOP Class and Instance UIDs that
        differ from those announced in C-STORE.
    OSError
        The disk does not give its bytes.
    """
    recorded = frozenset(keywords) | RECORDED_KEYWORDS
    try:
        meta = read_file_meta_info(path)
        dataset = _read_elements(path, meta, recorded.union(_REQUIRED_UIDS, IDENTITY, [NAME]))
    except _UNREADABLE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BadInput(
            f"the data set's header cannot be read ({type(error).__name__}); send the image again"
        ) from error
    uids = {name: _uid(dataset, name) for name in _REQUIRED_UIDS}
    for name, tag in (("SOPInstanceUID", "0008,0018"), ("SOPClassUID", "0008,0016")):
        if _text(meta, f"MediaStorage{name}") != uids[name]:
            raise BadInput(f"{name} ({tag}) differs from the one announced in C-STORE")
    header = _header(dataset, recorded)
    header.setdefault("Modality", MODALITY_OF_SOP_CLASS.get(uids["SOPClassUID"], ""))
    transfer_syntax_uid = _text(meta, "TransferSyntaxUID")
    return InstanceRecord(
        study_instance_uid=uids["StudyInstanceUID"],
        series_instance_uid=uids["SeriesInstanceUID"],
        sop_instance_uid=uids["SOPInstanceUID"],
        sop_class_uid=uids["SOPClassUID"],
        transfer_syntax_uid=transfer_syntax_uid,
        digest=data_set_digest(path, transfer_syntax_uid),
        identity_digest=identity_digest(dataset),
        has_patient_id=bool(_text(dataset, "PatientID")),
        role=role_of(uids["SOPClassUID"], header["Modality"]),
        header=header,
        path="",
        size=path.stat().st_size,
        association=arrival.association,
        calling_ae_title=_text(meta, "SourceApplicationEntityTitle"),
        received_at=arrival.received_at,
        name_digests=name_digests(dataset),
    )


def sender_of(path: Path) -> str:
    """Calling AE title from the file meta information that the receiver wrote, or nothing."""
    try:
        return _text(read_file_meta_info(path), "SourceApplicationEntityTitle")
    except _UNREADABLE:
        return ""


def _read_elements(path: Path, meta: FileMetaDataset, keywords: Iterable[str]) -> Dataset:
    syntax = UID(_text(meta, "TransferSyntaxUID"))
    tags = {tag for tag in map(tag_for_keyword, keywords) if tag is not None}
    encoding = Encoding(syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian)
    with path.open("rb") as file:
        _skip_meta(file)
        deflated = syntax == DeflatedExplicitVRLittleEndian
        stream = InflatedStream(file) if deflated else PlainStream(file, path.stat().st_size)
        content = excerpt(stream, tags | {_SPECIFIC_CHARACTER_SET}, encoding)
    return read_dataset(BytesIO(content), encoding.implicit, encoding.little_endian)


def _skip_meta(file: BinaryIO) -> None:
    head = file.read(_PREAMBLE_BYTES + _GROUP_LENGTH_BYTES)
    file.seek(int.from_bytes(head[-4:], "little"), 1)


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


def _header(dataset: Dataset, keywords: Iterable[str]) -> dict[str, Any]:
    header = {}
    for keyword in sorted(keywords):
        try:
            value = _plain(dataset.get(keyword), dictionary_VR(keyword))
        except _UNREADABLE:
            continue  # an unreadable optional value counts as absent
        if value not in (None, "", []) and not _is_too_long(value):
            header[keyword] = value
    return header


def _is_too_long(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) > _MOST_VALUES or any(map(_is_too_long, value))
    return isinstance(value, str) and len(value) > _LONGEST_TEXT


def _plain(value: Any, vr: str) -> Any:
    if isinstance(value, MultiValue | list | tuple):
        return [_plain(item, vr) for item in value]
    if value is None or value == "":
        return None
    if vr in {"DS", "FL", "FD"}:
        return _finite(float(value))
    if vr in {"IS", "US", "SS", "UL", "SL"}:
        return int(value)
    return _storable(str(value).strip())


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("not a number that JSON can hold")
    return value


def _storable(value: str) -> str:
    """PostgreSQL takes no NUL in a text, and no text takes half a surrogate pair."""
    value.encode()
    if "\0" in value:
        raise ValueError("NUL in a text")
    return value
