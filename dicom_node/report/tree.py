"""The content tree of the SR (TID 1500): image library and measurement groups.

Shaped so that OHIF shows it as well: every group has image coordinates, every NUM has exactly one
child and that is its SCOORD, and what a person must read stands in the Comment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    CoordinatesForMeasurement,
    DateContentItem,
    FindingSite,
    ImageContentItem,
    ImageRegion,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    NumContentItem,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TextContentItem,
    TrackingIdentifier,
    UIDRefContentItem,
)
from pydicom import Dataset
from pydicom.valuerep import DA

from dicom_node.domain.findings import Finding, Level, Prediction
from dicom_node.report import codes
from dicom_node.report.identity import RESEARCH_USE, Run
from dicom_node.report.source import Source, SourceImage
from dicom_node.report.uids import derive_uid

LIBRARY_IMAGES = 64
"""Most images that the Image Library lists; the evidence sequence always holds all."""
_TRACKING_LENGTH = 64
_ACQ = RelationshipTypeValues.HAS_ACQ_CONTEXT
_CONTAINS = RelationshipTypeValues.CONTAINS
_Group = TypeVar("_Group", bound=ContentSequence)


def verdict_text(finding: Finding) -> str:
    """Say one finding in a line: "Pneumonia PRESENT 87.3% (threshold 42.0%) image 12"."""
    verdict = "PRESENT" if finding.present else "ABSENT"
    place = finding.level.value
    if finding.level is Level.SLICE and finding.instance_number is not None:
        place += f" {finding.instance_number}"
    return (
        f"{finding.code.meaning} {verdict} {100 * finding.probability:.1f}% "
        f"(threshold {100 * finding.threshold:.1f}%) {place}"
    )


def comment_text(statement: str, marks: Sequence[str]) -> str:
    """Return what stands beside a score in every viewer: statement, warnings, research use."""
    return ". ".join(part.rstrip(". ") for part in (statement, *marks, RESEARCH_USE))


def image_library(source: Source, first: Sequence[str]) -> ContainerContentItem:
    """Build the Image Library (TID 1600) with one group and shared descriptors.

    Parameters
    ----------
    first
        SOP Instance UIDs of images that must be listed even if there are too many.
    """
    library = ContainerContentItem(
        name=codes.IMAGE_LIBRARY, template_id="1600", relationship_type=_CONTAINS
    )
    group = ContainerContentItem(name=codes.IMAGE_LIBRARY_GROUP, relationship_type=_CONTAINS)
    group.ContentSequence = ContentSequence(list(_descriptors(source.header, source.images[0])))
    chosen = sorted(source.images, key=lambda image: image.sop_instance_uid not in first)
    for image in chosen[:LIBRARY_IMAGES]:
        group.ContentSequence.append(
            ImageContentItem(
                name=codes.SOURCE,
                referenced_sop_class_uid=image.sop_class_uid,
                referenced_sop_instance_uid=image.sop_instance_uid,
                relationship_type=_CONTAINS,
            )
        )
    library.ContentSequence = ContentSequence([group])
    return library


def _descriptors(header: Dataset, image: SourceImage) -> Iterator[ContentItem]:
    """TID 1602 to 1604, only what is known."""
    modality = codes.modality_concept(str(header.get("Modality", "")))
    if modality is not None:
        yield CodeContentItem(codes.MODALITY, modality, relationship_type=_ACQ)
    if header.get("StudyDate"):
        yield DateContentItem(codes.STUDY_DATE, DA(str(header.StudyDate)), relationship_type=_ACQ)
    if header.get("FrameOfReferenceUID"):
        uid = str(header.FrameOfReferenceUID)
        yield UIDRefContentItem(codes.FRAME_OF_REFERENCE, uid, relationship_type=_ACQ)
    yield _number(codes.PIXEL_ROWS, image.rows, codes.PIXELS)
    yield _number(codes.PIXEL_COLUMNS, image.columns, codes.PIXELS)
    spacing = header.get("PixelSpacing") or header.get("ImagerPixelSpacing")
    if spacing:
        yield _number(codes.HORIZONTAL_SPACING, float(spacing[1]), codes.MILLIMETER)
        yield _number(codes.VERTICAL_SPACING, float(spacing[0]), codes.MILLIMETER)
    yield from _modality_descriptors(header)


def _modality_descriptors(header: Dataset) -> Iterator[ContentItem]:
    if header.get("Modality") == "CT":
        if header.get("SliceThickness"):
            yield _number(codes.SLICE_THICKNESS, float(header.SliceThickness), codes.MILLIMETER)
        return
    orientation = header.get("PatientOrientation") or ()
    if len(orientation) == 2 and all(orientation):
        for name, value in zip(
            (codes.ORIENTATION_ROW, codes.ORIENTATION_COLUMN), orientation, strict=True
        ):
            yield TextContentItem(name, str(value), relationship_type=_ACQ)


def _number(name: CodedConcept, value: float, unit: CodedConcept) -> NumContentItem:
    return NumContentItem(name, value, unit, relationship_type=_ACQ)


def finding_group(
    finding: Finding, prediction: Prediction, run: Run, source: Source
) -> MeasurementsAndQualitativeEvaluations:
    """Build one measurement group (TID 1501): a probability, where it comes from, the verdict."""
    image = source.image(finding.sop_instance_uid)
    frames = None if finding.frame_number is None else [finding.frame_number]
    name = codes.concept(finding.code)
    region = CoordinatesForMeasurement(
        "POLYLINE",
        _outline(finding.box, finding.rows, finding.columns),
        SourceImageForRegion(image.sop_class_uid, image.sop_instance_uid, frames),
    )
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(finding, run),
        finding_type=name,
        finding_sites=[FindingSite(codes.concept(finding.site))],
        algorithm_id=_algorithm(prediction, run, finding),
        measurements=[
            Measurement(
                codes.CERTAINTY,
                round(100 * finding.probability, 1),
                codes.PERCENT,
                referenced_coordinates=[region],
            )
        ],
        qualitative_evaluations=[
            QualitativeEvaluation(name, codes.PRESENT if finding.present else codes.ABSENT)
        ],
        source_images=[
            SourceImageForMeasurementGroup(image.sop_class_uid, image.sop_instance_uid, frames)
        ],
    )
    return _with_comment(group, comment_text(verdict_text(finding), prediction.marks))


def not_analysed_group(
    reason: str, prediction: Prediction, run: Run, source: Source
) -> PlanarROIMeasurementsAndQualitativeEvaluations:
    """Build the group of a study that was not scored (TID 1410): Undetermined, and why.

    A planar region without a number: there is no probability to state, and a group without
    coordinates would cost the whole report in OHIF.
    """
    key = prediction.key_images[0] if prediction.key_images else None
    image = source.images[0] if key is None else source.image(key.sop_instance_uid)
    frames = None if key is None or key.frame_number is None else [key.frame_number]
    group = PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=derive_uid({"kind": "SR", "role": "tracking", "run": run.key, "finding": None}),
            identifier="Not analysed",
        ),
        referenced_region=ImageRegion(
            "POLYLINE",
            _outline(None, image.rows, image.columns),
            SourceImageForRegion(image.sop_class_uid, image.sop_instance_uid, frames),
        ),
        finding_type=codes.UNDETERMINED,
        finding_sites=[FindingSite(codes.CHEST)],
        algorithm_id=_algorithm(prediction, run, None),
    )
    return _with_comment(group, comment_text(f"NOT ANALYSED: {reason}", prediction.marks))


def _with_comment(group: _Group, text: str) -> _Group:
    item = TextContentItem(name=codes.COMMENT, value=text, relationship_type=_CONTAINS)
    group[0].ContentSequence.append(item)
    return group


def _outline(
    box: tuple[float, float, float, float] | None, rows: int, columns: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return a closed outline, (5, 2) column and row, within the image (PS3.3 C.18.6.1.1)."""
    left, top, right, bottom = box or (0.5, 0.5, columns - 0.5, rows - 0.5)
    left, right = (min(max(0.0, value), float(columns)) for value in (left, right))
    top, bottom = (min(max(0.0, value), float(rows)) for value in (top, bottom))
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    return np.array(corners, dtype=np.float64)


def _tracking(finding: Finding, run: Run) -> TrackingIdentifier:
    place = ""
    if finding.level is Level.SLICE:
        place = "" if finding.instance_number is None else f" slice {finding.instance_number}"
        place += "" if finding.frame_number is None else f" frame {finding.frame_number}"
    key = {
        "kind": "SR",
        "role": "tracking",
        "run": run.key,
        "finding": f"{finding.code.scheme}:{finding.code.value}",
        "level": finding.level.value,
        "image": finding.sop_instance_uid if finding.level is Level.SLICE else None,
        "frame": finding.frame_number if finding.level is Level.SLICE else None,
    }
    name = finding.code.meaning[: _TRACKING_LENGTH - len(place)]
    return TrackingIdentifier(uid=derive_uid(key), identifier=name + place)


def _algorithm(
    prediction: Prediction, run: Run, finding: Finding | None
) -> AlgorithmIdentification:
    """TID 4019: everything that makes the number traceable."""
    model = prediction.model
    parameters = [
        f"weights={model.weights_sha256}",
        f"preprocessing={model.preprocessing_digest}",
        f"thresholds={model.thresholds_digest}",
        f"input={run.context.input_digest}",
        f"revision={run.context.revision}",
        f"engine={prediction.engine}",
        f"node={run.context.product_name} {run.context.node_version}",
    ]
    if finding is not None:
        parameters += [
            f"threshold={finding.threshold:.4f}",
            "score=calibrated probability",
            f"level={finding.level.value}",
        ]
    return AlgorithmIdentification(
        run.algorithm.name,
        run.algorithm.version,
        parameters=parameters,
        family=codes.ARTIFICIAL_INTELLIGENCE,
    )
