"""A model is used inside its intended use only; the reason for a no says nothing of a patient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dicom_node.score.manifest import IntendedUse
from dicom_node.score.quality import (
    age_in_years,
    check_header,
    check_picture,
    unlike_picture,
    unlike_slices,
)

CHILDREN = IntendedUse(
    statement="test",
    modalities=("CR", "DX"),
    body_parts=("CHEST",),
    view_positions=("AP", "PA"),
    age_years=(1, 5),
    minimum_rows=100,
    minimum_columns=100,
)
INSIDE: dict[str, Any] = {
    "Modality": "DX",
    "BodyPartExamined": "CHEST",
    "ViewPosition": "PA",
    "PatientAge": "004Y",
    "Rows": 500,
    "Columns": 400,
}


def test_an_image_inside_the_intended_use_has_nothing_against_it() -> None:
    scope = check_header(CHILDREN, INSIDE)
    assert (scope.violations, scope.remarks) == ((), ())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"Modality": "MG"}, "Modality (0008,0060) is MG, not CR or DX"),
        ({"Modality": None}, "Modality (0008,0060) is not stated, not CR or DX"),
        ({"BodyPartExamined": "HAND"}, "Body Part Examined (0018,0015) is HAND, not CHEST"),
        (
            {"BodyPartExamined": None},
            "Body Part Examined (0018,0015) is not stated; a chest cannot be confirmed",
        ),
        ({"ViewPosition": "LL"}, "the view is lateral; only frontal views can be scored"),
        ({"ViewPosition": "TANGENTIAL"}, "View Position (0018,5101) is TANGENTIAL, not AP or PA"),
        (
            {"ViewPosition": "", "SeriesDescription": "Thorax lat"},
            "the view is lateral; only frontal views can be scored",
        ),
        (
            {"ViewPosition": None, "PatientOrientation": ["A", "F"]},
            "the view is lateral; only frontal views can be scored",
        ),
        ({"PatientAge": "064Y"}, "age 64 years is outside 1-5 years"),
        ({"PatientAge": "093Y"}, "age >89 years is outside 1-5 years"),
        ({"PatientAge": "003M"}, "age under 1 year is outside 1-5 years"),
        ({"PatientAge": "006Y"}, "age 6 years is outside 1-5 years"),
        ({"PatientAge": None}, "the age is not stated; 1-5 years cannot be confirmed"),
        ({"PatientAge": "old"}, "the age is not stated; 1-5 years cannot be confirmed"),
        ({"Rows": 64}, "the image of 64 x 400 pixels is smaller than 100 x 100"),
    ],
)
def test_each_thing_outside_the_intended_use_is_one_sentence(
    change: dict[str, Any], sentence: str
) -> None:
    assert check_header(CHILDREN, INSIDE | change).violations == (sentence,)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    change = {"Modality": "MG", "PatientAge": "050Y", "BodyPartExamined": "BREAST"}
    assert len(check_header(CHILDREN, INSIDE | change).violations) == 3


def test_an_unknown_view_is_a_remark() -> None:
    scope = check_header(CHILDREN, INSIDE | {"ViewPosition": None})
    assert scope.violations == ()
    assert scope.remarks == ("View Position (0018,5101) is not stated; a frontal view is assumed",)


def test_a_chest_may_be_named_in_the_description() -> None:
    change = {"BodyPartExamined": "", "StudyDescription": "Thorax a.p."}
    assert check_header(CHILDREN, INSIDE | change).violations == ()


def test_an_unknown_age_is_a_remark_where_the_model_says_so() -> None:
    adults = CHILDREN.model_copy(update={"age_years": (18, 120), "age_must_be_known": False})
    scope = check_header(adults, INSIDE | {"PatientAge": None})
    assert scope.violations == ()
    assert scope.remarks == ("the age is not stated; 18-120 years cannot be confirmed",)


@pytest.mark.parametrize(
    ("born", "imaged", "age"),
    [
        ("20190301", "20240229", 4.0),
        ("20190301", "20240301", 5.0),
        ("2019.03.01", "20240301", 5.0),
        ("20250101", "20240301", None),
        ("", "20240301", None),
    ],
)
def test_age_follows_from_the_birth_date(born: str, imaged: str, age: float | None) -> None:
    assert age_in_years({"PatientBirthDate": born, "StudyDate": imaged}) == age


def test_pictures_without_content_are_recognised() -> None:
    blank = np.full((64, 64), 0.4, np.float32)
    assert check_picture(blank) == ("the image is blank",)
    saturated = np.zeros((64, 64), np.float32)
    saturated[:30] = 1
    assert check_picture(saturated) == ("100% of the image is fully black or white",)
    steps = np.tile(np.array([0.2, 0.4, 0.6, 0.8], np.float32), (64, 16))
    assert check_picture(steps) == ("the image has only 4 gray levels",)
    ramp = np.linspace(0, 1, 4096, dtype=np.float32).reshape(64, 64)
    assert check_picture(ramp) == ()


def test_a_distance_just_beyond_the_limit_is_not_shown_as_the_limit() -> None:
    assert "scope distance 1.01, at most 1.00" in unlike_picture(1.0004, "")
    assert "scope distance 1.10, at most 1.00" in unlike_picture(1.1, "")
    assert "scope distance inf" in unlike_picture(float("inf"), "")
    assert unlike_slices(13, 24, 1.2, "").startswith("13 of 24 slices are unlike")


def test_what_an_altered_picture_looks_like_is_said() -> None:
    assert unlike_picture(1.1, "").endswith("(scope distance 1.10, at most 1.00)")
    assert unlike_picture(1.1, "inverted").endswith("at most 1.00); it looks inverted")
    assert unlike_slices(13, 24, 1.2, "rotated").endswith("at most 1.00); most look rotated")
