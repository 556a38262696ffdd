"""A source header made fit for strict builders (PS3.3 C.7, PS3.5 section 6.2).

Text in UTF-8, type 2 attributes present, no value that its VR forbids. What cannot be carried over
without changing whose study it is, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from struct import error as StructError

from highdicom._standard_utils import get_sop_class_iod_map
from pydicom import DataElement, Dataset
from pydicom import config as pydicom_config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag
from pydicom.valuerep import validate_value

from dicom_node.charset import UTF8, decode_text, defined_terms
from dicom_node.errors import BadInput

UNREADABLE = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    IndexError,
    StructError,
)
"""What pydicom raises on a value that it cannot convert."""
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_TYPE_2 = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
_IDENTITY = {
    "PatientName": "0010,0010",
    "PatientID": "0010,0020",
    "IssuerOfPatientID": "0010,0021",
}
_DEFAULT_BODY_PART = "CHEST"
_LAST_GROUP = 0x0050
"""Patient, study, equipment and image attributes end here; functional groups and pixels follow."""
_CHARSET = BaseTag(0x00080005)
_TEXT_VRS = frozenset({"SH", "LO", "ST", "LT", "UC", "UT", "PN"})
_PN_GROUPS, _PN_GROUP_LENGTH = 3, 64
_UID_LENGTH = 64


def required_uid(dataset: Dataset, keyword: str) -> str:
    """Return a UID that every result needs.

    Raises
    ------
    BadInput
        It is missing or malformed.
    """
    value = str(dataset.get(keyword) or "")
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)*", value) or len(value) > _UID_LENGTH:
        raise BadInput(f"{keyword} is missing or not a UID; a result needs it, none is invented")
    return value


def normalised(dataset: Dataset) -> Dataset:
    """Return the shadow of a source header that strict builders accept.

    Raises
    ------
    BadInput
        A missing UID, a SOP class without a known IOD, identity that its VR does not allow, or text
        beyond ASCII in a character set that DICOM does not have.
    """
    for keyword in _UIDS:
        required_uid(dataset, keyword)
    if str(dataset.SOPClassUID) not in get_sop_class_iod_map():
        raise BadInput(
            f"SOPClassUID (0008,0016) {dataset.SOPClassUID} is private, retired or unknown; "
            "no result can refer to it"
        )
    shadow = _copied(dataset, ("",))
    shadow.SpecificCharacterSet = UTF8
    if not shadow.get("BodyPartExamined"):
        shadow.BodyPartExamined = _DEFAULT_BODY_PART
    _complete_identity(dataset, shadow)
    _drop_useless_spacing(shadow)
    _complete_deidentification(shadow)
    return shadow


def _copied(dataset: Dataset, inherited: tuple[str, ...]) -> Dataset:
    """Copy what is public, readable and valid; text as str."""
    terms = _terms(dataset, inherited)
    copy = Dataset()
    for tag in sorted(dataset.keys()):
        tag = BaseTag(tag)
        if tag.is_private or tag.element == 0 or tag == _CHARSET or tag.group > _LAST_GROUP:
            continue
        try:
            element = _element(dataset, tag, terms)
            if element is not None and _is_valid(element):
                copy.add(element)
        except UNREADABLE:
            continue  # an attribute of type 3 that nobody can read, or identity, completed later
    return copy


def _terms(dataset: Dataset, inherited: tuple[str, ...]) -> tuple[str, ...]:
    if _CHARSET not in dataset:
        return inherited
    value = dataset[_CHARSET].value
    return defined_terms([value] if isinstance(value, str) else list(value or ()))


def _element(dataset: Dataset, tag: BaseTag, terms: tuple[str, ...]) -> DataElement | None:
    raw = dataset.get_item(tag)
    vr = _vr(raw, tag)
    if vr in _TEXT_VRS and isinstance(raw, RawDataElement):
        text = decode_text(raw.value or b"", terms, person_name=vr == "PN")
        return DataElement(tag, vr, _repaired(vr, text))
    element = dataset[tag]
    if element.VR == "SQ":
        items = [_copied(item, terms) for item in element.value or ()]
        return DataElement(tag, "SQ", DicomSequence(items))
    if element.VR in _TEXT_VRS or element.VR in _REPAIRS:
        return DataElement(tag, element.VR, _repaired(element.VR, _joined(element)))
    return element


def _vr(raw: DataElement | RawDataElement | None, tag: BaseTag) -> str | None:
    vr = None if raw is None else raw.VR
    return dictionary_VR(tag) if vr in (None, "UN") else vr


def _joined(element: DataElement) -> str:
    return "\\".join(map(str, element.value)) if element.VM > 1 else str(element.value or "")


def _repaired(vr: str, text: str) -> str:
    repair = _REPAIRS.get(vr)
    return text if repair is None else "\\".join(map(repair, text.split("\\")))


def _repaired_name(name: str) -> str:
    """Cut a name to what PS3.5 section 6.2 allows, three groups of 64 characters; nothing else.

    The patient's own is refused instead, see `_check_identity`.
    """
    return "=".join(group[:_PN_GROUP_LENGTH] for group in name.split("=")[:_PN_GROUPS])


def _repaired_code(text: str) -> str:
    """`Chest` becomes `CHEST`: a code string has no lower case."""
    return text.strip().upper()


def _repaired_date(text: str) -> str:
    """`2004.08.26` (ACR-NEMA) becomes `20040826`; what is no date becomes empty."""
    digits = re.sub(r"[.\-/ ]", "", text)
    return digits if re.fullmatch(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", digits) else ""


def _repaired_time(text: str) -> str:
    """`12:34:56.1234567` becomes `123456.123456`; what is no time becomes empty."""
    match = re.fullmatch(
        r"(?P<clock>([01]\d|2[0-3])([0-5]\d([0-5]\d)?)?)(?P<rest>\.\d{1,6})?\d*",
        text.replace(":", "").strip(),
    )
    if match is None or (match["rest"] and len(match["clock"]) < len("HHMMSS")):
        return ""
    return match["clock"] + (match["rest"] or "")


_REPAIRS: dict[str, Callable[[str], str]] = {
    "PN": _repaired_name,
    "DA": _repaired_date,
    "TM": _repaired_time,
    "CS": _repaired_code,
}


def _is_valid(element: DataElement) -> bool:
    if element.VR == "SQ":
        return True
    values = element.value if element.VM > 1 else [element.value]
    try:
        for value in values:
            if value is not None:
                validate_value(element.VR, value, pydicom_config.RAISE)
    except UNREADABLE:
        return False
    return True


def _complete_identity(dataset: Dataset, shadow: Dataset) -> None:
    _check_identity(dataset, shadow)
    for keyword in _TYPE_2:
        if keyword not in shadow:
            setattr(shadow, keyword, None)
    if shadow.PatientSex not in ("M", "F", "O", "", None):
        shadow.PatientSex = "O"
    if not re.fullmatch(r"[+-](0\d|1[0-4])[0-5]\d", str(shadow.get("TimezoneOffsetFromUTC", ""))):
        shadow.pop("TimezoneOffsetFromUTC", None)


def _check_identity(dataset: Dataset, shadow: Dataset) -> None:
    """Refuse what a result could only carry changed: it would be misfiled, or somebody else's."""
    terms = _terms(dataset, ("",))
    for keyword, tag in _IDENTITY.items():
        raw = dataset.get_item(keyword)
        if isinstance(raw, RawDataElement):
            text = decode_text(raw.value or b"", terms, person_name=keyword == "PatientName")
        else:
            text = "" if raw is None else _joined(raw)
        if text.rstrip("^= ") != _carried(shadow, keyword).rstrip("^= "):
            raise BadInput(
                f"{keyword} ({tag}) is not valid (64 characters, no control characters; names: "
                "three groups of 64); a result cannot carry it unchanged: correct it at the source"
            )


def _carried(shadow: Dataset, keyword: str) -> str:
    return _joined(shadow[keyword]) if keyword in shadow else ""


def _drop_useless_spacing(shadow: Dataset) -> None:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        if keyword not in shadow:
            continue
        element = shadow[keyword]
        if element.VM != 2 or min(element.value) <= 0:
            del shadow[keyword]


def _complete_deidentification(shadow: Dataset) -> None:
    removed = shadow.get("PatientIdentityRemoved")
    if removed not in ("YES", "NO"):
        shadow.pop("PatientIdentityRemoved", None)
        return
    stated = shadow.get("DeidentificationMethod") or shadow.get(
        "DeidentificationMethodCodeSequence"
    )
    if removed == "YES" and not stated:
        shadow.DeidentificationMethod = "NOT STATED BY SOURCE"
