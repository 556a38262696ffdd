"""The Secondary Capture: one RGB picture of the result for every viewer (PS3.3 A.8.1).

Left the images with their heat maps, right the card. The picture is a page, not an image in the
patient's space: it has no spacing, no frame of reference and an empty Patient Orientation.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from highdicom.sc import SCImage
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from dicom_node.charset import UTF8
from dicom_node.domain.findings import Prediction
from dicom_node.report import codes
from dicom_node.report.canvas import BANNER_TEXT, Canvas
from dicom_node.report.card import draw_card, draw_time
from dicom_node.report.context import ResultObject
from dicom_node.report.identity import (
    PENDING_UID,
    RESEARCH_USE,
    Run,
    SeriesIdentity,
    finish,
    long_string,
)
from dicom_node.report.panel import Arrays, draw_panel
from dicom_node.report.source import Source

_LOSSY_RATIO_AND_METHOD = ("LossyImageCompressionRatio", "LossyImageCompressionMethod")


def build_capture(run: Run, prediction: Prediction, arrays: Arrays, source: Source) -> ResultObject:
    """Build the Secondary Capture of a prediction and the same picture as PNG.

    Parameters
    ----------
    arrays
        `display_<i>` (rows, columns) uint8 and `heat_<i>` (h, w) float32 in [0, 1].
    """
    series = run.series("SC", source)
    canvas = draw_result(run, prediction, arrays, source)
    capture = _capture(run, series, source, np.array(canvas.image))
    _describe(capture, run, series, source)
    draw_time(canvas, run)
    pixels = canvas.image.tobytes()
    content = finish(capture, "SC", run, series, source, dated_pixels=pixels)
    return ResultObject(
        kind="SC",
        sop_class_uid=str(SecondaryCaptureImageStorage),
        sop_instance_uid=str(capture.SOPInstanceUID),
        series_instance_uid=series.uid,
        content=content,
        png=_png(canvas),
    )


def draw_result(run: Run, prediction: Prediction, arrays: Arrays, source: Source) -> Canvas:
    """Draw the picture but for the time; nothing of the patient is written into it."""
    canvas = Canvas()
    draw_panel(canvas, prediction, arrays)
    draw_card(canvas, prediction, run, len(source.images))
    canvas.banners()
    return canvas


def _capture(
    run: Run, series: SeriesIdentity, source: Source, pixels: NDArray[np.uint8]
) -> SCImage:
    capture = SCImage(
        pixels,
        "RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        study_instance_uid=source.header.StudyInstanceUID,
        series_instance_uid=series.uid,
        series_number=series.number,
        sop_instance_uid=PENDING_UID,
        instance_number=series.instance_number,
        manufacturer=long_string(run.context.manufacturer),
        manufacturer_model_name=long_string(run.context.product_name),
        software_versions=run.software_versions,
        device_serial_number=long_string(run.context.device_serial_number),
        series_description=series.description,
        contributing_equipment=[run.algorithm.equipment()],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set=UTF8,
    )
    capture[
        "PatientOrientation"
    ].value = None  # the constructor insists on letters; a page has none
    return capture


def _describe(capture: SCImage, run: Run, series: SeriesIdentity, source: Source) -> None:
    capture.ConversionType = "WSD"
    capture.BodyPartExamined = source.header.BodyPartExamined
    capture.BurnedInAnnotation = "YES"
    capture.RecognizableVisualFeatures = "NO"
    capture.DerivationDescription = f"Result card with heat map burned in; {RESEARCH_USE}"
    capture.ImageComments = BANNER_TEXT
    capture.SecondaryCaptureDeviceManufacturer = capture.Manufacturer
    capture.SecondaryCaptureDeviceManufacturerModelName = capture.ManufacturerModelName
    capture.SecondaryCaptureDeviceSoftwareVersions = run.software_versions
    _declare_lossy(capture, source.header)
    references = [(item.sop_class_uid, item.sop_instance_uid) for item in source.images]
    if series.previous is not None:
        references.insert(1, (series.previous.SOPClassUID, series.previous.SOPInstanceUID))
    capture.SourceImageSequence = [_reference(*pair) for pair in references]


def _declare_lossy(capture: SCImage, header: Dataset) -> None:
    lossy = header.get("LossyImageCompression") == "01"
    capture.LossyImageCompression = "01" if lossy else "00"
    for keyword in _LOSSY_RATIO_AND_METHOD:
        if lossy and header.get(keyword):
            setattr(capture, keyword, header[keyword].value)


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    item.PurposeOfReferenceCodeSequence = [codes.SOURCE_FOR_PROCESSING]
    return item


def _png(canvas: Canvas) -> bytes:
    buffer = BytesIO()
    canvas.image.save(buffer, "PNG")
    return buffer.getvalue()
