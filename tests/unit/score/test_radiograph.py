"""From radiographs to a prediction: what is scored, refused, marked and shown."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.data import get_testdata_file

from dicom_node.domain.findings import Level
from dicom_node.errors import BadInput
from dicom_node.score.bundle import Bundle
from dicom_node.score.engine import Classifier, Raw
from dicom_node.score.manifest import Calibration, CodeEntry
from dicom_node.score.outcome import NOT_APPLIED, Outcome, OutOfScope
from dicom_node.score.study import score_files
from tests.unit.score.synthetic import Write, chest_like

SYMMETRIC_TOLERANCE = 1e-4


def score(cxr: Classifier, *paths: Path, out_of_scope: OutOfScope = "refuse") -> Outcome:
    return score_files(cxr.bundle, cxr, list(paths), out_of_scope=out_of_scope)


def rg1(name: str = "RG1_UNCR.dcm") -> Path:
    return Path(str(get_testdata_file(name)))


def test_a_child_is_scored_with_box_heat_and_display(cxr: Classifier, write: Write) -> None:
    outcome = score(cxr, write(chest_like()))
    prediction = outcome.prediction
    assert prediction.not_analysed is None
    assert prediction.marks == ()
    assert prediction.model == cxr.bundle.identity
    (finding,) = prediction.findings
    assert finding.level is Level.IMAGE
    assert 0 < finding.probability < 1
    assert (finding.code.value, finding.site.value) == ("233604007", "39607008")
    assert (finding.rows, finding.columns, finding.instance_number) == (300, 260, 1)
    if finding.box is not None:
        left, top, right, bottom = finding.box
        assert 0 <= left < right <= 260
        assert 0 <= top < bottom <= 300
    (image,) = prediction.key_images
    assert image.probability == finding.probability
    assert outcome.arrays["display_0"].shape == (300, 260)
    assert outcome.arrays["display_0"].dtype == np.uint8
    heat = outcome.arrays["heat_0"]
    assert heat.dtype == np.float32
    assert 0 <= heat.min() <= heat.max() <= 1


def test_monochrome1_and_its_positive_get_the_same_score(cxr: Classifier, write: Write) -> None:
    values = chest_like().astype(np.uint16) * 16
    positive = write(values, BitsStored=12, HighBit=11)
    negative = write(
        4095 - values,
        name="negative.dcm",
        BitsStored=12,
        HighBit=11,
        PhotometricInterpretation="MONOCHROME1",
    )
    first, second = (score(cxr, path).prediction.findings[0] for path in (positive, negative))
    assert first.probability == pytest.approx(second.probability, abs=SYMMETRIC_TOLERANCE)


def test_an_adult_is_refused_with_the_reason_and_shown(cxr: Classifier) -> None:
    outcome = score(cxr, rg1())
    prediction = outcome.prediction
    assert prediction.findings == ()
    assert prediction.not_analysed == "age 64 years is outside 1-5 years"
    assert prediction.engine == NOT_APPLIED
    assert [image.has_heat for image in prediction.key_images] == [False]
    assert list(outcome.arrays) == ["display_0"]


def test_an_adult_is_scored_and_marked_where_the_route_says_so(cxr: Classifier) -> None:
    plain = score(cxr, rg1(), out_of_scope="mark").prediction
    packed = score(cxr, rg1("RG1_J2KR.dcm"), out_of_scope="mark").prediction
    assert plain.marks == ("outside intended use: age 64 years is outside 1-5 years",)
    assert plain.findings[0].probability == packed.findings[0].probability


@pytest.mark.parametrize(
    ("attributes", "picture", "reason"),
    [
        ({"ViewPosition": "LL"}, chest_like(), "lateral"),
        ({}, np.full((300, 260), 70, np.uint8), "blank"),
    ],
)
def test_some_images_are_never_scored_even_where_others_would_be_marked(
    cxr: Classifier, write: Write, attributes: dict[str, Any], picture: Any, reason: str
) -> None:
    prediction = score(cxr, write(picture, **attributes), out_of_scope="mark").prediction
    assert prediction.findings == ()
    assert reason in str(prediction.not_analysed)


def test_the_finding_stands_on_the_most_probable_frontal_image(
    cxr: Classifier, write: Write
) -> None:
    flat = np.asarray(chest_like() // 4 + 60, dtype=np.uint8)
    paths = [
        write(chest_like(), name="a.dcm", SOPInstanceUID="2.25.1"),
        write(flat[::-1].copy(), name="b.dcm", SOPInstanceUID="2.25.2"),
        write(chest_like(), name="lateral.dcm", SOPInstanceUID="2.25.3", ViewPosition="LL"),
    ]
    prediction = score(cxr, *paths).prediction
    shown = {image.sop_instance_uid: image.probability for image in prediction.key_images}
    assert set(shown) == {"2.25.1", "2.25.2"}
    best = max(shown, key=lambda uid: float(shown[uid] or 0))
    (finding,) = prediction.findings
    assert finding.sop_instance_uid == best == prediction.key_images[0].sop_instance_uid
    assert prediction.source_sop_instance_uids == ("2.25.1", "2.25.2", "2.25.3")
    assert score(cxr, *reversed(paths)).prediction == prediction


def test_one_bad_file_is_a_remark_and_all_bad_is_an_error(
    cxr: Classifier, write: Write, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(b"nothing")
    prediction = score(cxr, write(chest_like()), bad).prediction
    assert len(prediction.findings) == 1
    assert prediction.marks[0].startswith("1 of 2 images could not be decoded")
    with pytest.raises(BadInput, match="not readable"):
        score(cxr, bad)
    with pytest.raises(BadInput, match="no image"):
        score(cxr)


def test_an_empty_instance_number_is_no_obstacle(cxr: Classifier, write: Write) -> None:
    prediction = score(cxr, write(chest_like(), InstanceNumber="")).prediction
    assert prediction.findings[0].instance_number is None


def test_thresholds_belong_to_the_bundle(cxr_bundle: Bundle) -> None:
    (entry,) = cxr_bundle.findings
    points = {point.name: point.threshold for point in entry.operating_points}
    assert "balanced" in points
    assert entry.threshold in points.values()


def stripes() -> NDArray[np.uint8]:
    """A picture that is no chest."""
    return np.asarray(np.indices((300, 260)).sum(axis=0) // 20 % 2 * 200 + 20, dtype=np.uint8)


UNLIKE = re.compile(
    r"the picture is unlike the ones the model was made from "
    r"\(scope distance (\d+\.\d\d), at most 1\.00\)(?:; it looks (\w+))?"
)
SILENT = dict.fromkeys(("PatientAge", "ViewPosition", "BodyPartExamined"))


def spotted(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """With all gray levels in a corner, so that the header-free checks of a picture pass."""
    picture = picture.copy()
    picture[:16, :16] = np.arange(256, dtype=np.uint8).reshape(16, 16)
    return picture


@pytest.mark.parametrize("attributes", [{}, SILENT])
def test_a_picture_like_no_chest_is_not_analysed_whatever_its_header_lacks(
    gated_cxr: Classifier, write: Write, attributes: dict[str, Any]
) -> None:
    bundle = taking_silent_headers(gated_cxr.bundle)
    path = write(spotted(stripes()), **attributes)
    outcome = score_files(bundle, gated_cxr, [path], out_of_scope="refuse")
    assert outcome.prediction.findings == ()
    found = UNLIKE.fullmatch(str(outcome.prediction.not_analysed))
    assert found is not None
    assert float(found[1]) > 1
    assert list(outcome.arrays) == ["display_0"]


def taking_silent_headers(bundle: Bundle) -> Bundle:
    """The bundle as if neither age nor body part had to be known."""
    section = bundle.metadata.dicom_node
    known = {"age_must_be_known": False, "body_part_must_be_known": False}
    use = section.intended_use.model_copy(update=known)
    changed = section.model_copy(update={"intended_use": use})
    return replace(bundle, metadata=bundle.metadata.model_copy(update={"dicom_node": changed}))


def test_a_picture_like_the_known_ones_passes_the_gate_without_a_word(
    gated_cxr: Classifier, write: Write
) -> None:
    prediction = score(gated_cxr, write(chest_like())).prediction
    assert len(prediction.findings) == 1
    assert prediction.marks == ()


def test_a_picture_like_no_chest_is_scored_and_marked_where_the_route_says_so(
    gated_cxr: Classifier, write: Write
) -> None:
    path = write(spotted(stripes()), PatientAge="064Y")
    prediction = score(gated_cxr, path, out_of_scope="mark").prediction
    assert len(prediction.findings) == 1
    (mark,) = prediction.marks
    assert mark.startswith("outside intended use: age 64 years is outside 1-5 years; the picture")
    assert UNLIKE.search(mark)


def test_a_score_marked_for_its_header_tells_the_scope_distance(
    gated_cxr: Classifier, write: Write
) -> None:
    path = write(chest_like(), PatientAge="064Y")
    prediction = score(gated_cxr, path, out_of_scope="mark").prediction
    outside, distance = prediction.marks
    assert outside == "outside intended use: age 64 years is outside 1-5 years"
    assert re.fullmatch(r"scope distance 0\.\d\d \(1\.00 is the limit\)", distance)


@pytest.mark.parametrize("out_of_scope", ["refuse", "mark"])
def test_an_inverted_picture_is_called_so(
    gated_cxr: Classifier, write: Write, out_of_scope: OutOfScope
) -> None:
    prediction = score(gated_cxr, write(255 - chest_like()), out_of_scope=out_of_scope).prediction
    (said,) = prediction.marks if out_of_scope == "mark" else (prediction.not_analysed,)
    found = UNLIKE.search(str(said))
    assert found is not None
    assert found[2] == "inverted"


@pytest.mark.parametrize("out_of_scope", ["refuse", "mark"])
def test_a_picture_beyond_the_gate_is_left_out_beside_one_within(
    gated_cxr: Classifier, write: Write, out_of_scope: OutOfScope
) -> None:
    paths = [
        write(spotted(stripes()), name="a.dcm", SOPInstanceUID="2.25.1"),
        write(chest_like(), name="b.dcm", SOPInstanceUID="2.25.2"),
        write(chest_like(), name="c.dcm", SOPInstanceUID="2.25.3", PatientAge="064Y"),
    ]
    prediction = score(gated_cxr, *paths, out_of_scope=out_of_scope).prediction
    assert [image.sop_instance_uid for image in prediction.key_images] == ["2.25.2"]
    assert prediction.findings[0].sop_instance_uid == "2.25.2"
    assert prediction.marks == ()
    assert prediction.source_sop_instance_uids == ("2.25.1", "2.25.2", "2.25.3")


def test_the_network_runs_once(
    gated_cxr: Classifier, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    predict = gated_cxr.predict

    def counted(tensors: Any) -> Any:
        counts.append(len(tensors))
        return predict(tensors)

    monkeypatch.setattr(gated_cxr, "predict", counted)
    path = write(spotted(stripes()), PatientAge="064Y")
    score(gated_cxr, path, out_of_scope="mark")
    score(gated_cxr, path)
    assert counts == [1]


def test_every_one_of_eighteen_findings_is_reported_in_order(cxr: Classifier, write: Write) -> None:
    bundle = many_findings(cxr.bundle)
    classifier = Classifier(bundle, EighteenOutputs(), batch_size=2)
    path = write(chest_like())
    prediction = score_files(bundle, classifier, [path], out_of_scope="refuse").prediction
    probabilities = [finding.probability for finding in prediction.findings]
    assert probabilities == pytest.approx([number / 20 for number in range(18)], abs=1e-6)
    assert [finding.present for finding in prediction.findings] == [n >= 9 for n in range(18)]
    assert len({finding.code.value for finding in prediction.findings}) == 18
    assert prediction.key_images[0].probability == prediction.findings[0].probability


class EighteenOutputs:
    """A network of 18 outputs whose probabilities are 0, 0.05 ... 0.85."""

    description = "fixed"

    def run(self, batch: NDArray[np.float32]) -> Raw:
        wanted = np.clip(np.arange(18) / 20, 1e-9, None)
        logits = np.tile(np.log(wanted / (1 - wanted)), (len(batch), 1)).astype(np.float32)
        activations = np.ones((len(batch), 18, 2, 2), np.float32)
        return Raw(logits, activations, np.zeros((len(batch), 4), np.float32))


def many_findings(bundle: Bundle) -> Bundle:
    """The bundle as if its network had 18 outputs, each a finding,."""
    section = bundle.metadata.dicom_node
    labels = tuple(f"finding {number}" for number in range(18))
    findings = tuple(
        section.findings[0].model_copy(
            update={
                "label": label,
                "code": CodeEntry(value=f"99{number}", scheme="99TEST", meaning=label),
                "threshold": 0.45,
            }
        )
        for number, label in enumerate(labels)
    )
    changed = {
        "labels": labels,
        "outputs": labels,
        "findings": findings,
        "calibration": Calibration(function="sigmoid", temperature=1.0, bias=(0.0,) * 18),
    }
    metadata = bundle.metadata.model_copy(update={"dicom_node": section.model_copy(update=changed)})
    return replace(bundle, metadata=metadata)
