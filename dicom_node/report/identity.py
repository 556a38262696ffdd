"""Who made a result, of which run, in which series and when: the same in every object.

IHE AI Results asks that one set of values stands for an algorithm in Contributing Equipment, in the
observer context and in the algorithm identification; they all come from `Algorithm`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from highdicom import ContributingEquipment, SOPClass
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_node.domain.findings import ModelIdentity
from dicom_node.errors import BadInput
from dicom_node.report import codes
from dicom_node.report.context import Kind, ReportContext
from dicom_node.report.source import Source
from dicom_node.report.uids import IMPLEMENTATION_CLASS_UID, derive_uid, run_key

RESEARCH_USE = "RESEARCH USE ONLY"
PENDING_UID = derive_uid({"kind": "pending", "role": "instance"})
"""SOP Instance UID of a result until its content is known."""

_LO_LENGTH = 64
_SERIES_OFFSET: dict[Kind, int] = {"SR": 1, "SC": 2}
_TIME_KEYWORDS = (
    ("InstanceCreationDate", "InstanceCreationTime"),
    ("SeriesDate", "SeriesTime"),
    ("ContentDate", "ContentTime"),
    ("DateOfSecondaryCapture", "TimeOfSecondaryCapture"),
)
_LIBRARY_MAKER = "Highdicom"


def long_string(text: str) -> str:
    """Fit a text into VR LO: at most 64 characters, no backslash."""
    return text.replace("\\", "/")[:_LO_LENGTH]


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One algorithm as every place in a result names it."""

    manufacturer: str
    name: str
    version: str
    device_uid: str

    def equipment(self) -> ContributingEquipment:
        """Return its item of Contributing Equipment Sequence (0018,A001)."""
        item = ContributingEquipment(
            self.manufacturer,
            codes.PROCESSING_EQUIPMENT,
            manufacturer_model_name=self.name,
            software_versions=self.version,
            contribution_description="Analysis of the source images; " + RESEARCH_USE,
        )
        item.DeviceUID = self.device_uid
        return item


@dataclass(frozen=True, slots=True)
class SeriesIdentity:
    """The series that a result joins: a new one, or that of the result it replaces."""

    uid: str
    number: int
    description: str
    instance_number: int
    date: str
    time: str
    previous: Dataset | None


@dataclass(frozen=True, slots=True)
class Run:
    """One run: what identifies it, who made it and when."""

    key: dict[str, Any]
    algorithm: Algorithm
    context: ReportContext
    model: ModelIdentity
    finished_at: datetime

    @property
    def software_versions(self) -> list[str]:
        """Model version, then node version."""
        return [self.algorithm.version, long_string(self.context.node_version)]

    def series(self, kind: Kind, source: Source) -> SeriesIdentity:
        """Return the series of this run's result of a kind.

        Raises
        ------
        BadInput
            The stored file of the result to be replaced cannot be read.
        """
        path = self.context.previous_sr if kind == "SR" else self.context.previous_sc
        previous = None if path is None else _read_previous(path)
        same_study = (
            previous is not None and previous.StudyInstanceUID == source.header.StudyInstanceUID
        )
        if previous is not None and same_study:
            return SeriesIdentity(
                uid=str(previous.SeriesInstanceUID),
                number=int(previous.SeriesNumber),
                description=str(previous.SeriesDescription),
                instance_number=max(self.context.revision, int(previous.InstanceNumber) + 1),
                date=str(previous.SeriesDate),
                time=str(previous.SeriesTime),
                previous=previous,
            )
        return SeriesIdentity(
            uid=derive_uid({"kind": kind, "role": "series", "run": self.key}),
            number=self.context.series_number_base + _SERIES_OFFSET[kind],
            description=long_string(f"{RESEARCH_USE}: {self.algorithm.name} {kind}"),
            instance_number=self.context.revision,
            date=f"{self.finished_at:%Y%m%d}",
            time=f"{self.finished_at:%H%M%S}",
            previous=previous,
        )


def identify_run(context: ReportContext, model: ModelIdentity, source: Source) -> Run:
    """Gather what identifies a run of a model on the source images."""
    key = run_key(
        source_series=[image.series_instance_uid for image in source.images],
        model=model.name,
        version=model.version,
        weights=model.weights_sha256,
        thresholds=model.thresholds_digest,
        input_digest=context.input_digest,
    )
    device = {
        "kind": "device",
        "role": "device",
        "model": model.name,
        "ver": model.version,
        "weights": model.weights_sha256,
        "node": context.device_serial_number,
    }
    algorithm = Algorithm(
        manufacturer=long_string(model.manufacturer),
        name=long_string(model.name),
        version=long_string(model.version),
        device_uid=derive_uid(device),
    )
    return Run(key, algorithm, context, model, _local(context.completed_at, source.header))


def _local(moment: datetime, header: Dataset) -> datetime:
    offset = header.get("TimezoneOffsetFromUTC")
    if not offset:
        return moment
    sign = -1 if str(offset).startswith("-") else 1
    digits = str(offset)[1:]
    shift = sign * timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return moment.astimezone(timezone(shift))


def _read_previous(path: Path) -> Dataset:
    try:
        return dcmread(path, stop_before_pixels=True)
    except (InvalidDicomError, OSError) as error:
        raise BadInput(
            "the stored file of the result to be replaced cannot be read; restore it or "
            "run the job as a new study"
        ) from error


def finish(
    result: SOPClass,
    kind: Kind,
    run: Run,
    series: SeriesIdentity,
    source: Source,
    *,
    dated_pixels: bytes | None = None,
) -> bytes:
    """Give a built object its equipment, its content's UID and, last, its times; encode it.

    The UID knows no time: a run that is repeated and comes to the same content names it the same.
    Nothing else depends on the clock or on chance: the same arguments give the same bytes.

    Parameters
    ----------
    dated_pixels
        Pixel data that replaces the object's own after the UID is found, because it shows the time.
    """
    result.copy_patient_and_study_information(source.header)
    result.ContentQualification = "RESEARCH"
    if "TimezoneOffsetFromUTC" in source.header:
        result.TimezoneOffsetFromUTC = source.header.TimezoneOffsetFromUTC
    result.ContributingEquipmentSequence = [
        item
        for item in result.ContributingEquipmentSequence
        if not str(item.get("Manufacturer", "")).startswith(_LIBRARY_MAKER)
    ]
    result.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    result.file_meta.ImplementationVersionName = f"DICOM_NODE_{run.context.node_version}"[:16]
    for date, time in _TIME_KEYWORDS:
        for keyword in (date, time):
            result.pop(keyword, None)
    _name(result, PENDING_UID)
    content = sha256(_encoded(result)).hexdigest()
    _name(
        result, derive_uid({"kind": kind, "role": "instance", "run": run.key, "content": content})
    )
    _date(result, kind, run, series)
    if dated_pixels is not None:
        result.PixelData = dated_pixels
    return _encoded(result)


def _name(result: SOPClass, uid: str) -> None:
    result.SOPInstanceUID = UID(uid)
    result.file_meta.MediaStorageSOPInstanceUID = UID(uid)


def _date(result: SOPClass, kind: Kind, run: Run, series: SeriesIdentity) -> None:
    pairs = _TIME_KEYWORDS if kind == "SC" else _TIME_KEYWORDS[:-1]
    for date, time in pairs:
        setattr(result, date, f"{run.finished_at:%Y%m%d}")
        setattr(result, time, f"{run.finished_at:%H%M%S}")
    for keyword, value in (("SeriesDate", series.date), ("SeriesTime", series.time)):
        setattr(result, keyword, value)


def _encoded(result: Dataset) -> bytes:
    buffer = BytesIO()
    assert result.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    result.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
