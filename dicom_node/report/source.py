"""The instances behind a result: the identity of the first, references to all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from dicom_node.errors import BadInput, short_uid
from dicom_node.report.normalise import UNREADABLE, normalised, required_uid

_IMAGE_TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "Rows",
    "Columns",
    "InstanceNumber",
)


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One instance that was scored or weighed.

    Attributes
    ----------
    rows, columns
        Size in pixels, at least 1.
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    rows: int
    columns: int
    instance_number: int | None


@dataclass(frozen=True, slots=True)
class Source:
    """The instances behind a result.

    Attributes
    ----------
    header
        Normalised header of the first instance; identity is copied from it.
    images
        All of them, in the order given.
    """

    header: Dataset
    images: tuple[SourceImage, ...]

    def image(self, sop_instance_uid: str) -> SourceImage:
        """Return the instance with this UID.

        Raises
        ------
        BadInput
            The prediction speaks of an image that is not among the sources.
        """
        for image in self.images:
            if image.sop_instance_uid == sop_instance_uid:
                return image
        raise BadInput(f"{short_uid(sop_instance_uid)} was scored but is not among the sources")


def read_source(paths: Sequence[Path]) -> Source:
    """Read the headers of the instances behind a result.

    Parameters
    ----------
    paths
        Part 10 files; the first one gives the identity.

    Raises
    ------
    BadInput
        No file, an unreadable one, a missing UID, a SOP class without a known IOD, or identity
        that no valid result can carry.
    """
    if not paths:
        raise BadInput("there is no source image to report on")
    header = normalised(_read(paths[0], tags=None))
    images = tuple(_image(_read(path, tags=_IMAGE_TAGS)) for path in paths)
    return Source(header=header, images=images)


def _read(path: Path, tags: Sequence[str] | None) -> Dataset:
    try:
        return dcmread(
            path, stop_before_pixels=True, specific_tags=None if tags is None else list(tags)
        )
    except (InvalidDicomError, OSError, *UNREADABLE) as error:
        raise BadInput(
            f"a source image cannot be read again ({type(error).__name__}); send it again"
        ) from error


def _image(dataset: Dataset) -> SourceImage:
    return SourceImage(
        sop_class_uid=required_uid(dataset, "SOPClassUID"),
        sop_instance_uid=required_uid(dataset, "SOPInstanceUID"),
        series_instance_uid=required_uid(dataset, "SeriesInstanceUID"),
        study_instance_uid=required_uid(dataset, "StudyInstanceUID"),
        rows=max(1, _integer(dataset, "Rows") or 1),
        columns=max(1, _integer(dataset, "Columns") or 1),
        instance_number=_integer(dataset, "InstanceNumber"),
    )


def _integer(dataset: Dataset, keyword: str) -> int | None:
    try:
        value = dataset.get(keyword)
        return None if value in (None, "") else int(value)
    except UNREADABLE:
        return None
