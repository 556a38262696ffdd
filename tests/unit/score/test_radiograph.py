"""From radiographs to a prediction: what is scored, refused, marked and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from dicom_node.domain.findings import Level
from dicom_node.errors import BadInput
from dicom_node.score.bundle import Bundle
from dicom_node.score.engine import Classifier
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
    names = [point.name for point in entry.operating_points]
    assert names == ["balanced", "sensitive"]
    assert entry.threshold == entry.operating_points[0].threshold
