"""Coded concepts of the result objects (PS3.16), as one table."""

from __future__ import annotations

from highdicom.sr import CodedConcept
from pydicom import Dataset

from dicom_node.domain.findings import Code


def _dcm(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value, "DCM", meaning)


def _sct(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value, "SCT", meaning)


# Structure (TID 1500, 1600)
IMAGE_LIBRARY = _dcm("111028", "Image Library")
IMAGE_LIBRARY_GROUP = _dcm("126200", "Image Library Group")
COMMENT = _dcm("121106", "Comment")
SOURCE = _sct("260753009", "Source")

# What is said (CID 240; probability in percent)
CERTAINTY = _dcm("111012", "Certainty of Finding")
PERCENT = CodedConcept("%", "UCUM", "Percent")
PRESENT = _sct("52101004", "Present")
ABSENT = _sct("272519000", "Absent")
UNDETERMINED = _sct("373068000", "Undetermined")
CHEST = _sct("816094009", "Chest")

# Image library descriptors (TID 1602, 1603, 1604)
MODALITY = _dcm("121139", "Modality")
STUDY_DATE = _dcm("111060", "Study Date")
FRAME_OF_REFERENCE = _dcm("112227", "Frame of Reference UID")
PIXEL_ROWS = _dcm("110910", "Pixel Data Rows")
PIXEL_COLUMNS = _dcm("110911", "Pixel Data Columns")
HORIZONTAL_SPACING = _dcm("111026", "Horizontal Pixel Spacing")
VERTICAL_SPACING = _dcm("111066", "Vertical Pixel Spacing")
SLICE_THICKNESS = _dcm("112225", "Slice Thickness")
ORIENTATION_ROW = _dcm("111044", "Patient Orientation Row")
ORIENTATION_COLUMN = _dcm("111043", "Patient Orientation Column")
PIXELS = CodedConcept("{pixels}", "UCUM", "Pixels")
MILLIMETER = CodedConcept("mm", "UCUM", "millimeter")

# Who and why
ARTIFICIAL_INTELLIGENCE = _dcm("123110", "Artificial Intelligence")
PROCESSING_EQUIPMENT = _dcm("109102", "Processing Equipment")
SOURCE_FOR_PROCESSING = _dcm("121322", "Source image for image processing operation")

_CT_PROCEDURE = CodedConcept("25045-6", "LN", "CT unspecified body region")
_IMAGING_PROCEDURE = _sct("363679005", "Imaging procedure")
_MODALITIES = {
    "CR": _dcm("CR", "Computed Radiography"),
    "CT": _dcm("CT", "Computed Tomography"),
    "DX": _dcm("DX", "Digital Radiography"),
}


def concept(code: Code) -> CodedConcept:
    """Return a code of the domain as a code sequence item."""
    return CodedConcept(code.value, code.scheme, code.meaning)


def modality_concept(modality: str) -> CodedConcept | None:
    """Return the code of a modality (CID 29) that the node scores, or None."""
    return _MODALITIES.get(modality)


def procedure_concept(header: Dataset) -> CodedConcept:
    """Return the imaging procedure (CID 100) that was reported on; not the algorithm."""
    return _CT_PROCEDURE if header.get("Modality") == "CT" else _IMAGING_PROCEDURE
