"""The rules: what is chosen, and that every "no" has its reason."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dicom_node.domain.study import Role
from dicom_node.errors import ConfigError
from dicom_node.paths import SHIPPED_CONFIG
from dicom_node.route.clauses import CelCondition
from dicom_node.route.rules import load_routes, select
from dicom_node.store.routing import StoredInstance

SHIPPED = load_routes(SHIPPED_CONFIG / "routes.yaml")


def image(number: int = 1, *, series: str = "1.1", role: Role = Role.IMAGE, **header: Any) -> Any:
    return StoredInstance(
        id=number,
        series_instance_uid=series,
        sop_instance_uid=f"{series}.{number}",
        sop_class_uid="1.2",
        digest="d",
        identity_digest="i",
        has_patient_id=True,
        role=role,
        header=header,
        received_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def routed(*instances: StoredInstance) -> dict[str, list[int]]:
    selections, _ = select(SHIPPED, instances)
    return {item.route.name: [image.id for image in item.instances] for item in selections}


def reasons(*instances: StoredInstance) -> set[str]:
    return {item.reason for item in select(SHIPPED, instances)[1] if not item.accepted}


def ct(count: int, **header: Any) -> list[StoredInstance]:
    return [image(i, **({"Modality": "CT", "series": "1.5"} | header)) for i in range(1, count + 1)]


def test_a_frontal_chest_radiograph_goes_to_the_cxr_model() -> None:
    frontal = image(Modality="CR", BodyPartExamined="CHEST", ViewPosition="PA")
    assert routed(frontal) == {"chest-radiograph": [1]}


def test_a_lateral_beside_it_is_left_out_with_the_reason() -> None:
    frontal = image(1, Modality="DX", BodyPartExamined="chest", ViewPosition="AP")
    lateral = image(2, Modality="DX", BodyPartExamined="CHEST", ViewPosition="LL")
    assert routed(frontal, lateral) == {"chest-radiograph": [1]}
    assert "lateral view" in reasons(frontal, lateral)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"Modality": "CR", "BodyPartExamined": "HAND"}, "BodyPartExamined is HAND"),
        ({"Modality": "MR"}, "Modality is MR"),
        ({"Modality": "DX", "ImageType": ["DERIVED", "SECONDARY"]}, "derived secondary"),
    ],
)
def test_every_no_says_why(header: dict[str, Any], reason: str) -> None:
    assert routed(image(**header)) == {}
    assert any(reason in text for text in reasons(image(**header)))


def test_localizers_are_left_out_of_a_ct_series_and_short_series_refused() -> None:
    scout = image(99, series="1.5", Modality="CT", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert routed(*ct(12), scout) == {"chest-ct": list(range(1, 13))}
    assert any("localizer" in text for text in reasons(*ct(12), scout))
    assert "series has 9 images, route needs 10" in reasons(*ct(9))


def test_of_two_ct_series_the_longer_then_the_thinner_is_chosen() -> None:
    thick, thin = ct(20, SliceThickness=5.0), ct(20, series="1.6", SliceThickness=1.0)
    selections, decisions = select(SHIPPED, [*thick, *thin])
    assert {item.series_instance_uid for item in selections[0].instances} == {"1.6"}
    assert any("another series" in item.reason for item in decisions)


def test_malformed_numbers_in_a_header_stop_nobody() -> None:
    odd = ct(12, SliceThickness=[5.0, 5.0], NumberOfFrames=["x", 1])
    other = ct(12, series="1.6", SliceThickness=1.0)
    assert list(routed(*odd, *other)) == ["chest-ct"]


def test_an_enhanced_ct_counts_its_frames() -> None:
    assert routed(image(Modality="CT", NumberOfFrames=40)) == {"chest-ct": [1]}


def test_somebody_elses_results_are_not_scored() -> None:
    frontal = image(1, Modality="CR", BodyPartExamined="CHEST")
    ours = image(2, Modality="SR", role=Role.RESULT)
    assert routed(frontal, ours) == {"chest-radiograph": [1]}
    assert any("Modality SR" in text for text in reasons(frontal, ours))
    assert routed(ours) == {}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("routes: [{name: a, model: m, input: images, when: [{field: Modalty, any_of: [CR]}]}]",
         "Modalty"),
        ("routes: [{name: a, model: m, input: images, when: [{field: Modality}]}]", "exactly one"),
        ("routes: [{name: a, model: m, input: images, when: [{field: Modality, at_least: 3}]}]",
         "not a number"),
        ("routes: [{name: a, model: m, input: pictures, when: [{field: Modality, any_of: [CR]}]}]",
         "input"),
        ("routes: [{name: a, model: m, input: images, mode: x, "
         "when: [{field: Modality, any_of: [CR]}]}]", "mode"),
        ("routes: [{name: a, model: m, input: images, expression: 'Modalty == \"CT\"', "
         "when: [{field: Modality, any_of: [CR]}]}]", "Modalty"),
        ("routes: [{name: a, model: m, input: images, expression: 'SliceThickness == \"x\"', "
         "when: [{field: Modality, any_of: [CR]}]}]", "overload"),
        ("routes: [{name: a, model: m, input: images, when: [{field: PatientName, contains: x}]}]",
         "who the patient is"),
        ("routes: [{name: a, model: m, input: images, expression: 'PatientID == \"1\"', "
         "when: [{field: Modality, any_of: [CR]}]}]", "who the patient is"),
        ("routes: [", "not valid YAML"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_rules_is_an_error_at_load(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=named):
        load_routes(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_routes(tmp_path / "none.yaml")


def test_cel_says_what_clauses_cannot_and_an_absent_attribute_is_a_no() -> None:
    condition = CelCondition('SliceThickness * 2.0 <= SpacingBetweenSlices && "AXIAL" in ImageType')
    assert condition.keywords() == {"SliceThickness", "SpacingBetweenSlices", "ImageType"}
    header = {"SliceThickness": 1.0, "SpacingBetweenSlices": 2.5, "ImageType": ["X", "AXIAL"]}
    assert condition.holds(header)
    assert not condition.holds(header | {"SliceThickness": 2.0})
    assert not condition.holds({"SliceThickness": 1.0})


def test_cel_must_give_true_or_false() -> None:
    with pytest.raises(ConfigError, match="no true or false"):
        CelCondition("SliceThickness + 1.0")
