"""What the results say: identity, references, revisions, equality of bytes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from highdicom.sr import srread
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian

from dicom_node.domain.findings import KeyImage, Level
from dicom_node.errors import BadInput
from dicom_node.report.build import build_results
from dicom_node.report.canvas import (
    BACKGROUND,
    BANNER,
    BANNER_HEIGHT,
    FREE_END,
    HEIGHT,
    WIDTH,
    Canvas,
)
from dicom_node.report.panel import HEAT_OPACITY, blended
from dicom_node.report.validate import validate_result
from tests.unit.report.cases import (
    CONTEXT,
    MARK,
    MODEL,
    REASON,
    Case,
    chest_case,
    chest_header,
    chest_path,
    ct_case,
    many_case,
    refused_case,
)

REPOSITORY = Path(__file__).parents[3]
Results = dict[str, Path]


def items(dataset: Dataset, code: str) -> list[Dataset]:
    """Content items of a concept, anywhere in the tree."""
    found = []
    for item in dataset.get("ContentSequence", []):
        names = item.get("ConceptNameCodeSequence")
        if names and names[0].CodeValue == code:
            found.append(item)
        found += items(item, code)
    return found


def evidence(dataset: Dataset) -> set[str]:
    return {
        str(instance.ReferencedSOPInstanceUID)
        for study in dataset.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }


def test_there_is_exactly_one_sr_and_one_secondary_capture_in_the_source_study() -> None:
    source = dcmread(chest_path())

    results = chest_case().build()

    assert [item.kind for item in results] == ["SR", "SC"]
    for item, number, modality in zip(results, (9001, 9002), ("SR", "OT"), strict=True):
        dataset = dcmread(BytesIO(item.content))
        assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert dataset.StudyInstanceUID == source.StudyInstanceUID
        assert (dataset.PatientID, dataset.PatientName) == (source.PatientID, source.PatientName)
        assert (dataset.SeriesNumber, dataset.Modality) == (number, modality)
        assert dataset.InstanceNumber == 1
        assert dataset.SOPInstanceUID == item.sop_instance_uid
        assert dataset.SeriesInstanceUID == item.series_instance_uid
        assert dataset.ContentQualification == "RESEARCH"
        assert "RESEARCH USE ONLY" in dataset.SeriesDescription
        assert dataset.StudyDescription == source.StudyDescription


def test_only_the_kinds_asked_for_are_built() -> None:
    assert [item.kind for item in chest_case().build("SC")] == ["SC"]
    with pytest.raises(BadInput, match="SEG"):
        chest_case().build("SEG")


def test_two_processes_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tests.unit.report.cases", tmp_path / name],
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
        )

    compared = 0
    for path in sorted((tmp_path / "one").rglob("S?.dcm")):
        twin = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == twin.read_bytes()
        compared += 1
    assert compared == 6


def test_the_algorithm_is_named_alike_in_all_places(chest_results: Results) -> None:
    report, capture = (dcmread(chest_results[kind]) for kind in ("SR", "SC"))
    equipment = [
        item
        for dataset in (report, capture)
        for item in dataset.ContributingEquipmentSequence
        if item.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    ]

    assert len(equipment) == 2
    for item in equipment:
        assert [item.Manufacturer] == [x.TextValue for x in items(report, "121014")]
        assert [item.ManufacturerModelName] == [x.TextValue for x in items(report, "121015")]
        assert {item.ManufacturerModelName} == {x.TextValue for x in items(report, "111001")}
        assert {item.SoftwareVersions} == {x.TextValue for x in items(report, "111003")}
        assert [item.DeviceUID] == [x.UID for x in items(report, "121012")]
    assert (equipment[0].Manufacturer, equipment[0].SoftwareVersions) == ("Model Maker", "1.4.2")
    assert (report.Manufacturer, report.ManufacturerModelName) == ("Node Maker", "dicom_node")


def test_every_number_in_the_sr_is_traceable(chest_results: Results) -> None:
    texts = {item.TextValue for item in items(dcmread(chest_results["SR"]), "111002")}

    assert {
        f"weights={MODEL.weights_sha256}",
        f"preprocessing={MODEL.preprocessing_digest}",
        f"thresholds={MODEL.thresholds_digest}",
        f"input={CONTEXT.input_digest}",
        "threshold=0.4200",
        "level=image",
        "engine=onnxruntime cpu fp32",
    } <= texts


def test_the_sr_states_probability_verdict_place_and_warning(chest_results: Results) -> None:
    report = srread(chest_results["SR"])
    groups = items(report, "125007")

    assert report.CompletionFlag == "COMPLETE"
    assert len(groups) == 2
    certainty = items(groups[0], "111012")[0]
    assert certainty.MeasuredValueSequence[0].NumericValue == 87.3
    assert [child.ValueType for child in certainty.ContentSequence] == ["SCOORD"]
    box = [300, 900, 900, 900, 900, 1700, 300, 1700, 300, 900]
    assert certainty.ContentSequence[0].GraphicData == box
    assert items(groups[0], "233604007")[0].ConceptCodeSequence[0].CodeMeaning == "Present"
    assert items(groups[1], "840539006")[0].ConceptCodeSequence[0].CodeMeaning == "Absent"
    comment = items(groups[0], "121106")[0].TextValue
    assert comment == (
        f"Pneumonia PRESENT 87.3% (threshold 42.0%) image. {MARK}. RESEARCH USE ONLY"
    )


def test_every_group_has_image_coordinates_and_every_number_one_child(
    chest_results: Results, ct_results: Results, refused_results: Results
) -> None:
    for results in (chest_results, ct_results, refused_results):
        groups = items(dcmread(results["SR"]), "125007")
        assert groups
        for group in groups:
            numbers = [item for item in group.ContentSequence if item.ValueType == "NUM"]
            regions = [item for item in group.ContentSequence if item.ValueType == "SCOORD"]
            assert numbers or regions
            for number in numbers:
                assert [child.ValueType for child in number.ContentSequence] == ["SCOORD"]


def test_a_ct_series_has_one_group_and_each_deciding_slice_another(ct_results: Results) -> None:
    report = dcmread(ct_results["SR"])

    names = [item.TextValue for item in items(report, "112039")]
    uids = {item.UID for item in items(report, "112040")}

    assert names == ["COVID-19", *(f"COVID-19 slice {number}" for number in (5, 6, 7, 8))]
    assert len(uids) == 5


def test_a_study_that_was_not_analysed_says_so_and_why(refused_results: Results) -> None:
    report = dcmread(refused_results["SR"])

    assert report.CompletionFlag == "PARTIAL"
    assert items(report, "121071")[0].ConceptCodeSequence[0].CodeMeaning == "Undetermined"
    assert items(report, "121106")[0].TextValue == f"NOT ANALYSED: {REASON}. RESEARCH USE ONLY"
    assert not items(report, "111012")


def test_a_study_of_which_no_image_can_be_shown_still_gives_both(tmp_path: Path) -> None:
    case = refused_case()
    prediction = replace(case.prediction, key_images=(), not_analysed="kein Bild – 画像なし")

    paths = replace(case, prediction=prediction, arrays={}).store(tmp_path)

    assert [validate_result(path) for path in paths.values()] == [[], []]


def test_all_sources_are_evidence_and_the_key_slices_are_listed_first(tmp_path: Path) -> None:
    case = ct_case(tmp_path / "slices", count=80)
    uids = {str(dcmread(path).SOPInstanceUID) for path in case.sources}

    report = dcmread(case.store(tmp_path, "SR")["SR"])

    library = items(report, "126200")[0]
    listed = [
        str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for item in library.ContentSequence
        if item.ValueType == "IMAGE"
    ]
    assert evidence(report) == uids
    assert len(listed) == 64
    assert set(listed[:4]) == {item.sop_instance_uid for item in case.prediction.key_images}


def test_a_later_revision_names_the_results_it_replaces(
    ct: Case, ct_results: Results, tmp_path: Path
) -> None:
    old = {kind: dcmread(path) for kind, path in ct_results.items()}
    context = replace(
        ct.context,
        revision=2,
        input_digest="cd" * 32,
        completed_at=ct.context.completed_at + timedelta(days=1),
        previous_sr=ct_results["SR"],
        previous_sc=ct_results["SC"],
    )

    paths = replace(ct, context=context).store(tmp_path)

    new = {kind: dcmread(path) for kind, path in paths.items()}
    for kind in ("SR", "SC"):
        assert validate_result(paths[kind]) == []
        assert new[kind].SOPInstanceUID != old[kind].SOPInstanceUID
        assert new[kind].InstanceNumber == 2
        for keyword in ("SeriesInstanceUID", "SeriesNumber", "SeriesDate", "SeriesDescription"):
            assert new[kind][keyword].value == old[kind][keyword].value
    replaced = new["SR"].PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert replaced.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == old["SR"].SOPInstanceUID
    assert evidence(new["SR"]) == evidence(old["SR"])
    shown = new["SC"].SourceImageSequence
    assert shown[1].ReferencedSOPInstanceUID == old["SC"].SOPInstanceUID
    assert len(shown) == len(ct.sources) + 1


def test_other_content_gets_another_uid_in_the_same_series() -> None:
    case = chest_case()
    finding = replace(case.prediction.findings[0], probability=0.8742)
    changed = replace(case, prediction=replace(case.prediction, findings=(finding,)))

    for old, new in zip(case.build(), changed.build(), strict=True):
        assert old.sop_instance_uid != new.sop_instance_uid
        assert old.series_instance_uid == new.series_instance_uid


def test_a_run_repeated_later_to_the_same_end_keeps_its_uids() -> None:
    case = chest_case()
    later = replace(CONTEXT, completed_at=CONTEXT.completed_at + timedelta(hours=1))

    for old, new in zip(case.build(), replace(case, context=later).build(), strict=True):
        assert old.sop_instance_uid == new.sop_instance_uid
        assert old.content != new.content


def test_times_are_written_in_the_sources_zone(chest_results: Results) -> None:
    report = dcmread(chest_results["SR"])

    assert report.TimezoneOffsetFromUTC == "-0400"
    assert (report.ContentDate, report.ContentTime) == ("20260304", "010607")


def test_a_finding_on_an_image_that_is_not_a_source_is_refused() -> None:
    case = chest_case()
    stray = replace(case.prediction.findings[0], sop_instance_uid="1.2.3")

    with pytest.raises(BadInput, match="not among the sources"):
        replace(case, prediction=replace(case.prediction, findings=(stray,))).build()


def test_a_prediction_that_says_nothing_is_refused() -> None:
    case = chest_case()
    with pytest.raises(BadInput, match="neither a finding nor a reason"):
        build_results(CONTEXT, replace(case.prediction, findings=()), {}, case.sources)


def picture(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(dcmread(path).pixel_array)


def test_the_capture_has_banners_and_free_corners(chest_results: Results) -> None:
    pixels = picture(chest_results["SC"])

    assert pixels.shape == (HEIGHT, WIDTH, 3)
    for rows in (slice(0, BANNER_HEIGHT), slice(HEIGHT - BANNER_HEIGHT, HEIGHT)):
        assert (pixels[rows, :FREE_END] == BACKGROUND).all()
        assert (pixels[rows, WIDTH - FREE_END :] == BACKGROUND).all()
        assert (pixels[rows, FREE_END : WIDTH - FREE_END] == BANNER).all(axis=-1).mean() > 0.7


def written(case: Case, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text on the capture, from top to bottom."""
    lines: list[tuple[float, str]] = []
    draw = Canvas.text

    def note(self: Canvas, at: tuple[float, float], text: str, *rest: Any, **more: Any) -> None:
        lines.append((at[1], text))
        draw(self, at, text, *rest, **more)

    monkeypatch.setattr(Canvas, "text", note)
    case.build("SC")
    monkeypatch.undo()
    return [text for _, text in sorted(lines, key=lambda line: line[0])]


@pytest.mark.parametrize("marks", [(), (MARK,), (MARK, *["a long remark on the study"] * 20)])
def test_eighteen_findings_give_valid_results_and_the_present_ones_are_seen(
    marks: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = many_case()
    case = replace(case, prediction=replace(case.prediction, marks=marks))

    paths = case.store(tmp_path)

    assert [validate_result(path) for path in paths.values()] == [[], []]
    assert len(items(dcmread(paths["SR"]), "125007")) == 18
    texts = written(case, monkeypatch)
    (rest,) = (text for text in texts if "more in the report" in text)
    meanings = [finding.code.meaning for finding in case.prediction.findings]
    names = [text for text in texts if text in meanings]
    present = [finding.code.meaning for finding in case.prediction.findings if finding.present]
    assert names[: len(present)] == present[: len(names)]
    unseen = len(set(present) - set(names))
    assert rest == f"and {18 - len(names)} more in the report: {unseen} present"
    assert texts.index(rest) < texts.index("Model")
    # Nothing runs into the lines below.
    expected, found = (picture_of(item) for item in (chest_case(), case))
    np.testing.assert_array_equal(found[524:], expected[524:])


def picture_of(case: Case) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The card's column of the capture."""
    return np.asarray(dcmread(BytesIO(case.build("SC")[0].content)).pixel_array[:, 660:1004])


def test_the_png_shows_what_the_capture_shows() -> None:
    capture = chest_case().build("SC")[0]
    assert capture.png is not None

    pixels = dcmread(BytesIO(capture.content)).pixel_array

    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(capture.png))), pixels)


def test_the_capture_is_declared_as_what_it_is(chest_results: Results) -> None:
    capture = dcmread(chest_results["SC"])

    assert capture.ConversionType == "WSD"
    assert capture.ImageType == ["DERIVED", "SECONDARY", "OTHER"]
    assert (capture.BurnedInAnnotation, capture.RecognizableVisualFeatures) == ("YES", "NO")
    assert capture.ImageComments == "RESEARCH USE ONLY - NOT FOR DIAGNOSIS"
    assert not capture.PatientOrientation
    for keyword in ("PixelSpacing", "FrameOfReferenceUID", "WindowCenter"):
        assert keyword not in capture
    reference = capture.SourceImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == dcmread(chest_path()).SOPInstanceUID
    assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"


def test_heat_covers_at_most_45_percent_of_a_pixel() -> None:
    display = np.full((50, 100), 200, dtype=np.uint8)
    top = np.ones((10, 10), dtype=np.float32)

    hot = np.asarray(blended(display, top, width=200, height=200)).astype(float)
    cold = np.asarray(blended(display, np.zeros_like(top), width=200, height=200))

    assert hot.shape == (100, 200, 3)
    assert (cold == 200).all()
    assert hot.min() >= (1 - HEAT_OPACITY) * 200 - 1
    assert np.ptp(hot, axis=-1).min() > 50


def test_a_box_is_drawn_for_a_present_finding_only() -> None:
    present = chest_case()
    finding = replace(present.prediction.findings[0], threshold=0.99)
    absent = replace(present, prediction=replace(present.prediction, findings=(finding,)))
    no_box = replace(
        absent, prediction=replace(absent.prediction, findings=(replace(finding, box=None),))
    )

    with_box, without, bare = (
        np.asarray(Image.open(BytesIO(case.build("SC")[0].png or b"")))[:, :640]
        for case in (present, absent, no_box)
    )

    assert (with_box != bare).any()
    assert (without == bare).all()


def test_no_heat_and_no_number_stand_beside_a_refusal(refused_results: Results) -> None:
    case = refused_case()
    key = KeyImage(0, case.prediction.key_images[0].sop_instance_uid, 1, None, None, False)
    plain = replace(case, prediction=replace(case.prediction, key_images=(key,)))

    shown = np.asarray(Image.open(BytesIO(plain.build("SC")[0].png or b"")))

    np.testing.assert_array_equal(shown, picture(refused_results["SC"]))


def test_a_frame_of_a_multi_frame_image_is_referred_to_by_its_number(tmp_path: Path) -> None:
    case = chest_case(
        chest_header(
            tmp_path, lambda dataset: setattr(dataset, "SOPClassUID", EnhancedCTImageStorage)
        )
    )
    finding = replace(case.prediction.findings[0], frame_number=17, level=Level.SLICE)
    key = replace(case.prediction.key_images[0], frame_number=17)
    prediction = replace(case.prediction, findings=(finding,), key_images=(key,))

    path = replace(case, prediction=prediction).store(tmp_path / "results", "SR")["SR"]

    region = items(dcmread(path), "111012")[0].ContentSequence[0]
    reference = region.ContentSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedFrameNumber == 17
    assert items(dcmread(path), "112039")[0].TextValue == "Pneumonia slice 1 frame 17"
    assert validate_result(path) == []
