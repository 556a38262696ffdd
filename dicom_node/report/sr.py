"""The Structured Report: Comprehensive 3D SR after TID 1500 (PS3.3 A.35.13, PS3.16)."""

from __future__ import annotations

from highdicom.sr import (
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
)
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.charset import UTF8
from dicom_node.domain.findings import Prediction
from dicom_node.report import codes
from dicom_node.report.context import ResultObject
from dicom_node.report.identity import PENDING_UID, Run, finish, long_string
from dicom_node.report.source import Source
from dicom_node.report.tree import finding_group, image_library, not_analysed_group

_Group = MeasurementsAndQualitativeEvaluations | PlanarROIMeasurementsAndQualitativeEvaluations

_DEVICE = CodedConcept("121007", "DCM", "Device")


def build_sr(run: Run, prediction: Prediction, source: Source) -> ResultObject:
    """Build the SR of a prediction.

    Every source instance is recorded as evidence. A study that was not analysed gives a PARTIAL
    document that says Undetermined and why, never a silent "Absent".

    Raises
    ------
    BadInput
        A finding refers to an image that is not among the sources.
    """
    series = run.series("SR", source)
    document = Comprehensive3DSR(
        evidence=_evidence(source),
        content=_content(run, prediction, source)[0],
        series_instance_uid=series.uid,
        series_number=series.number,
        sop_instance_uid=PENDING_UID,
        instance_number=series.instance_number,
        manufacturer=long_string(run.context.manufacturer),
        manufacturer_model_name=long_string(run.context.product_name),
        software_versions=run.software_versions,
        device_serial_number=long_string(run.context.device_serial_number),
        series_description=series.description,
        is_complete=prediction.not_analysed is None,
        is_final=False,
        is_verified=False,
        previous_versions=None if series.previous is None else [series.previous],
        contributing_equipment=[run.algorithm.equipment()],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set=UTF8,
    )
    content = finish(document, "SR", run, series, source)
    return ResultObject(
        kind="SR",
        sop_class_uid=str(document.SOPClassUID),
        sop_instance_uid=str(document.SOPInstanceUID),
        series_instance_uid=series.uid,
        content=content,
        png=None,
    )


def _evidence(source: Source) -> list[Dataset]:
    """The full header for the identity, references for all others."""
    references = []
    for image in source.images:
        reference = Dataset()
        reference.SOPClassUID = image.sop_class_uid
        reference.SOPInstanceUID = image.sop_instance_uid
        reference.SeriesInstanceUID = image.series_instance_uid
        reference.StudyInstanceUID = image.study_instance_uid
        references.append(reference)
    return [source.header, *references[1:]]


def _content(run: Run, prediction: Prediction, source: Source) -> MeasurementReport:
    groups: list[_Group]
    if prediction.not_analysed is not None:
        groups = [not_analysed_group(prediction.not_analysed, prediction, run, source)]
    else:
        groups = [
            finding_group(finding, prediction, run, source) for finding in prediction.findings
        ]
    report = MeasurementReport(
        observation_context=_observer(run),
        procedure_reported=codes.procedure_concept(source.header),
        imaging_measurements=groups,
    )
    shown = [item.sop_instance_uid for item in prediction.findings]
    shown += [item.sop_instance_uid for item in prediction.key_images]
    root = report[0].ContentSequence
    root.insert(len(root) - 1, image_library(source, shown))
    return report


def _observer(run: Run) -> ObservationContext:
    """The device that observed: the algorithm, under the node's AE title (TID 1004)."""
    attributes = DeviceObserverIdentifyingAttributes(
        uid=run.algorithm.device_uid,
        name=run.context.ae_title,
        manufacturer_name=run.algorithm.manufacturer,
        model_name=run.algorithm.name,
        serial_number=long_string(run.context.device_serial_number),
    )
    return ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=_DEVICE, observer_identifying_attributes=attributes
        )
    )
