"""Every validator accepts what is right and refuses what is wrong."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from dicom_node.errors import BadInput
from dicom_node.report.validate import available_validators, validate_result
from tests.unit.report.cases import Case, chest_case, chest_header, refused_case
from tests.unit.report.validators import (
    dciodvfy,
    needs_dsrdump,
    needs_pixelmed,
    pixelmed,
)

Results = dict[str, Path]


def spoiled(path: Path, folder: Path, spoil: Callable[[Dataset], None]) -> Path:
    dataset = dcmread(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spoil(dataset)
        dataset.save_as(folder / path.name)
    return folder / path.name


def wrong_relationship(dataset: Dataset) -> None:
    group = dataset.ContentSequence[-1].ContentSequence[0]
    group.ContentSequence[0].RelationshipType = "HAS PROPERTIES"


@pytest.mark.parametrize("results", ["chest_results", "ct_results", "refused_results"])
@pytest.mark.parametrize("kind", ["SR", "SC"])
def test_the_cheap_gates_accept_every_result(
    request: pytest.FixtureRequest, results: str, kind: str
) -> None:
    path: Path = request.getfixturevalue(results)[kind]

    assert validate_result(path) == []
    assert dciodvfy(path) == []


@needs_pixelmed
@pytest.mark.slow
def test_pixelmed_accepts_the_sr_of_a_radiograph(chest_results: Results) -> None:
    assert pixelmed(chest_results["SR"]) == []


@needs_pixelmed
@pytest.mark.slow
def test_pixelmed_accepts_the_sr_of_a_ct_that_replaces_an_earlier_one(
    ct: Case, ct_results: Results, tmp_path: Path
) -> None:
    context = replace(ct.context, revision=2, previous_sr=ct_results["SR"])

    path = replace(ct, context=context).store(tmp_path, "SR")["SR"]

    assert validate_result(path) == []
    assert dciodvfy(path) == []
    assert pixelmed(path) == []


@needs_pixelmed
@pytest.mark.slow
def test_pixelmed_accepts_the_sr_of_a_study_that_was_not_analysed(refused_results: Results) -> None:
    assert pixelmed(refused_results["SR"]) == []


@needs_pixelmed
@pytest.mark.slow
def test_pixelmed_refuses_a_wrong_relationship(chest_results: Results, tmp_path: Path) -> None:
    path = spoiled(chest_results["SR"], tmp_path, wrong_relationship)

    assert any("112039" in line for line in pixelmed(path))


@needs_dsrdump
def test_dsrdump_refuses_a_wrong_relationship_that_dciodvfy_lets_pass(
    chest_results: Results, tmp_path: Path
) -> None:
    path = spoiled(chest_results["SR"], tmp_path, wrong_relationship)

    assert dciodvfy(path) == []
    assert any(line.startswith("dsrdump: ") for line in validate_result(path))


@pytest.mark.parametrize(("kind", "keyword"), [("SR", "CompletionFlag"), ("SC", "ConversionType")])
def test_a_missing_attribute_is_named(
    chest_results: Results, tmp_path: Path, kind: str, keyword: str
) -> None:
    path = spoiled(chest_results[kind], tmp_path, lambda dataset: delattr(dataset, keyword))

    assert any(keyword in line for line in validate_result(path))


def test_a_file_that_is_no_dicom_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "SR.dcm"
    path.write_bytes(b"no")

    assert validate_result(path) == ["the result is not a DICOM file"]


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientName", "MARKER" * 12),
        ("PatientID", "MARKER" * 12),
        ("AccessionNumber", "MARKER56789012345"),
        ("PatientSex", "MARKER"),
        ("PatientBirthDate", "MARKER"),
        ("PatientAge", "MARKER"),
        ("PatientIdentityRemoved", "MARKER"),
    ],
)
def test_no_value_of_a_data_set_gets_into_a_problem(
    chest_results: Results, tmp_path: Path, keyword: str, value: str
) -> None:
    path = spoiled(chest_results["SC"], tmp_path, lambda dataset: setattr(dataset, keyword, value))

    problems = validate_result(path)

    assert problems
    assert "MARKER" not in " ".join(problems)


def test_the_validators_of_the_package_are_found() -> None:
    assert available_validators()["dciodvfy"] is not None


def deletes(*keywords: str) -> Callable[[Dataset], None]:
    def mutate(dataset: Dataset) -> None:
        for keyword in keywords:
            if keyword in dataset:
                del dataset[keyword]

    return mutate


def sets(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset, keyword, value)


TYPE_2 = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
FORM = ("SpecificCharacterSet", "PixelSpacing", "WindowCenter", "WindowWidth", "PatientOrientation")
MUTATIONS = {
    **{f"no {keyword}": deletes(keyword) for keyword in TYPE_2},
    "nothing that may be missing": deletes(*TYPE_2, *FORM, "BodyPartExamined", "Modality"),
    **{f"sex {value!r}": sets("PatientSex", value) for value in ("m", "Male", "U", "", None)},
    **{
        f"date {value!r}": sets("StudyDate", value)
        for value in ("2004.08.26", "20040826-20040827", "soon", "20041399")
    },
    **{
        f"time {value!r}": sets("StudyTime", value)
        for value in ("18:50:59", "185059.1234567", "1850", "late", "256161")
    },
    "birth date of another form": sets("PatientBirthDate", "1940-03-05"),
    **{
        f"character set {value!r}": sets("SpecificCharacterSet", value)
        for value in ("", "ISO_IR 6", "ISO-IR 100", ["", "ISO 2022 IR 87"], "UNHEARD OF")
    },
    "four name groups": sets("ReferringPhysicianName", "a=b=c=d"),
    "a name of 80 letters": sets("ReferringPhysicianName", "N" * 80),
    "an accession number of 20 letters": sets("AccessionNumber", "A" * 20),
    "an age that is none": sets("PatientAge", "64 years"),
    "a code in lower case": sets("PatientIdentityRemoved", "yes"),
    "a code that does not exist": sets("PatientIdentityRemoved", "MAYBE"),
    "de-identified without a method": sets("PatientIdentityRemoved", "YES"),
    "a time zone that is none": sets("TimezoneOffsetFromUTC", "Berlin"),
    "a spacing of one value": sets("PixelSpacing", [0.2]),
    "an orientation of two letters": sets("PatientOrientation", ["LP", "FR"]),
    "lossy before": sets("LossyImageCompression", "01"),
}


@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_an_odd_header_still_gives_valid_results(
    tmp_path: Path, mutate: Callable[[Dataset], None]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = chest_header(tmp_path, mutate)

    paths = replace(chest_case(source), arrays={}).store(tmp_path / "results")

    for path in paths.values():
        assert validate_result(path) == []


def test_repairs_keep_the_value_that_was_meant(tmp_path: Path) -> None:
    def mutate(dataset: Dataset) -> None:
        dataset.StudyDate, dataset.StudyTime = "2004.08.26", "18:50:59.1234567"
        dataset.PatientSex = "m"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = chest_header(tmp_path, mutate)

    result = dcmread(refused_case(source).store(tmp_path / "results", "SR")["SR"])

    assert result.StudyDate == "20040826"
    assert result.StudyTime == "185059.123456"
    assert result.PatientSex == "M"


@pytest.mark.parametrize(
    ("mutate", "reason"),
    [
        (deletes("StudyInstanceUID"), "StudyInstanceUID is missing"),
        (deletes("SeriesInstanceUID"), "SeriesInstanceUID is missing"),
        (sets("SOPClassUID", "1.2.840.999.1"), "private, retired or unknown"),
        (sets("PatientID", "MARKER" * 12), r"PatientID \(0010,0020\)"),
    ],
)
def test_a_source_without_a_safe_identity_is_refused(
    tmp_path: Path, mutate: Callable[[Dataset], None], reason: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = chest_header(tmp_path, mutate)

    with pytest.raises(BadInput, match=reason) as caught:
        chest_case(source).build()

    assert "MARKER" not in str(caught.value)
