"""A model folder is measured on every labelled picture, and what was left out is said."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_node.errors import BadInput
from dicom_node.score.bundle import METADATA, read_bundle
from dicom_node.score.engine import open_classifier
from dicom_node.score.pixels import read_frame
from dicom_node.score.radiograph import score_radiographs
from tests.unit.score.synthetic import dataset_of
from tests.unit.training.tiny import Drawn, drawn, joined, tiny_model
from training.data import open_source
from training.evaluate import evaluate
from training.metrics import measure
from training.predict import predict, unused_labels

PROMISED = (
    "n",
    "accuracy",
    "sensitivity",
    "specificity",
    "precision",
    "recall",
    "f1",
    "auc",
    "threshold",
    "confusion_matrix",
    "refused",
    "refused_fraction",
    "ci95",
)
LABELS = ("normal", "pneumonia")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place: Path = tmp_path_factory.mktemp("models")
    return tiny_model(place / "tiny")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place: Path = tmp_path_factory.mktemp("models")
    return tiny_model(place / "three", "cxr_covid3")


def test_the_promised_figures_are_those_of_the_node_s_own_scores(model: Path) -> None:
    source = drawn(LABELS, 20)
    report = evaluate(model, source, split="test")
    assert set(PROMISED) <= set(report)
    assert set(report["per_class"]) == set(report["accepted"]["per_class"]) == set(LABELS)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    bundle = read_bundle(model)
    classifier = open_classifier(bundle, device="cpu")
    tensors = [classifier.pipeline.prepare(source.read(item)).tensor for item in source.items]
    expected = measure(
        np.array([LABELS.index(item.label) for item in source.items]),
        classifier.predict(tensors).outputs,
        labels=LABELS,
        positive="pneumonia",
        threshold=bundle.findings[0].threshold,
        seed=20261121,
        groups=[item.group for item in source.items],
    )
    assert {name: report[name] for name in expected} == expected
    assert (report["model"], report["version"]) == ("tiny", bundle.version)
    assert (report["data"], report["split"], report["unknown_labels"]) == ("drawn", "test", {})
    assert report["engine"].startswith("onnxruntime")


def test_refused_pictures_count_and_stand_apart(model: Path) -> None:
    plain = drawn(LABELS, 16)
    source = replace(plain, striped=frozenset(item.path for item in plain.items[-6:]))
    report = evaluate(model, source, split="test")
    scores = predict(model, source, split="test")
    refused = int((scores.distance > 1).sum())
    assert 6 <= refused < 16
    assert (report["n"], report["refused"]) == (16, refused)
    assert report["refused_fraction"] == pytest.approx(refused / 16)
    assert report["accepted"]["n"] == 16 - refused
    assert sum(map(sum, report["accepted"]["confusion_matrix"])) == 16 - refused


def test_unknown_labels_are_listed_and_a_map_makes_them_known(model: Path) -> None:
    source = joined(drawn(LABELS, 8), drawn(("covid", "no finding"), 6, start=50))
    report = evaluate(model, source, split="test")
    assert (report["n"], report["unknown_labels"]) == (8, {"covid": 3, "no finding": 3})
    mapped = evaluate(
        model, source, split="test", label_map={"covid": "pneumonia", "no finding": "normal"}
    )
    assert (mapped["n"], mapped["n_positive"], mapped["unknown_labels"]) == (14, 7, {})


def test_a_map_to_a_label_that_the_model_does_not_have_is_refused(model: Path, three: Path) -> None:
    source = joined(drawn(LABELS, 8), drawn(("covid",), 4, start=50))
    wrong = {"normal": "normal", "covid": "pneumonai"}
    known = f"tiny has no label 'pneumonai'; it has {', '.join(LABELS)}$"
    with pytest.raises(BadInput, match=f"label map covid=pneumonai: {known}"):
        evaluate(model, source, split="test", label_map=wrong)
    with pytest.raises(BadInput, match="three has no label 'other'; it has "):
        evaluate(three, source, split="test", label_map={"pneumonia": "other"})


def test_labels_of_the_map_that_no_picture_of_the_split_has_are_told() -> None:
    source = joined(drawn(LABELS, 4), drawn(("covid",), 2, split="train"))
    label_map = {"covid": "pneumonia", "nomral": "normal", "normal": "normal"}
    assert unused_labels(source, "test", label_map) == [
        "label map covid=pneumonia: no picture of drawn, split test, has the label 'covid'; found "
        "are normal, pneumonia",
        "label map nomral=normal: no picture of drawn, split test, has the label 'nomral'; found "
        "are normal, pneumonia",
    ]
    (told,) = unused_labels(source, "all", label_map)
    assert "split all, has the label 'nomral'" in told
    assert unused_labels(source, "test", None) == []


def test_nothing_known_is_an_error_that_says_how_to_map(model: Path) -> None:
    with pytest.raises(BadInput, match=r"found are covid \(2\), healthy \(2\).*--label-map"):
        evaluate(model, drawn(("covid", "healthy"), 4), split="test")


@pytest.mark.parametrize(("split", "count"), [("test", 6), ("train", 4), ("all", 10), (None, 10)])
def test_a_split_or_everything_is_measured(model: Path, split: str | None, count: int) -> None:
    source = joined(drawn(LABELS, 6), drawn(LABELS, 4, split="train"))
    assert evaluate(model, source, split=split)["n"] == count


def test_a_source_without_splits_is_measured_whole(model: Path) -> None:
    report = evaluate(model, drawn(LABELS, 6, split=""), split="test")
    assert (report["n"], report["split"]) == (6, "all")


def test_a_missing_split_names_those_there(model: Path) -> None:
    source = joined(drawn(LABELS, 6), drawn(LABELS, 4, split="train"))
    with pytest.raises(BadInput, match="no split 'validation'; it has test, train, or all"):
        evaluate(model, source, split="validation")


@pytest.mark.parametrize("split", ["tset", "holdout", ""])
def test_a_source_without_splits_is_not_measured_under_a_word_of_its_own(
    model: Path, split: str
) -> None:
    with pytest.raises(BadInput, match=f"no split '{split}'; it has none, or all for every pict"):
        evaluate(model, drawn(LABELS, 6, split=""), split=split)


def test_a_split_of_the_source_s_own_name_is_measured(model: Path, tmp_path: Path) -> None:
    written(tmp_path / "set", joined(drawn(LABELS, 6), drawn(LABELS, 4, split="holdout")))
    opened = open_source(tmp_path / "set")
    for split, count in (("holdout", 4), ("test", 6), ("all", 10)):
        report = evaluate(model, opened, split=split)
        assert (report["n"], report["split"], report["problems"]) == (count, split, [])
    with pytest.raises(BadInput, match="no split 'train'; it has holdout, test, or all"):
        evaluate(model, opened, split="train")


def test_groups_are_measured_apart(model: Path) -> None:
    source = drawn(LABELS, 12)
    report = evaluate(model, source, split="test", group_by="subtype")
    assert set(report["groups"]) == {"virus", "bacteria"}
    for figures in report["groups"].values():
        assert set(PROMISED) <= set(figures)
        assert figures["n"] == figures["accepted"]["n"] + figures["refused"]
    assert sum(figures["n"] for figures in report["groups"].values()) == 12


def test_a_group_of_one_class_has_nulls_with_reasons(model: Path) -> None:
    source = drawn(LABELS, 6)
    marked = tuple(replace(item, columns={"kind": item.label[:1]}) for item in source.items)
    groups = evaluate(model, replace(source, items=marked), split="test", group_by="kind")["groups"]
    assert groups["n"]["sensitivity"] is None
    assert groups["n"]["undefined"]["auc"] == "no picture has the label pneumonia"


def test_an_unknown_column_names_those_there(model: Path) -> None:
    with pytest.raises(BadInput, match="no column 'hospital' to group by; it has subtype"):
        evaluate(model, drawn(LABELS, 4), split="test", group_by="hospital")


def test_strict_leaves_out_copies_doubts_and_relatives_of_learned_pictures(model: Path) -> None:
    source = joined(drawn(LABELS, 8), drawn(LABELS, 2, split="train"))
    assert "strict" not in evaluate(model, source, split="test")
    told: dict[str, tuple[str, dict[str, str]]] = {
        "test/0.png": ("a", {"dup_group": "d1"}),
        "test/1.png": ("b", {"label_flag": "doubtful"}),
        "test/2.png": ("learned", {}),
        "train/0.png": ("c", {"dup_group": "d1"}),
        "train/1.png": ("learned", {}),
    }
    items = []
    for item in source.items:
        group, columns = told.get(item.path, (item.path, {}))
        empty = {"dup_group": "", "label_flag": ""}
        items.append(replace(item, group=group, columns=empty | columns))
    marked = replace(source, items=tuple(items))
    report = evaluate(model, marked, split="test")
    assert (report["n"], report["strict"]["n"]) == (8, 5)
    assert set(PROMISED) <= set(report["strict"])
    assert "strict" not in evaluate(model, marked, split="train")


def test_three_classes_are_measured_by_label_whatever_the_order(three: Path) -> None:
    labels = read_bundle(three).metadata.dicom_node.labels
    report = evaluate(three, drawn(labels, 15), split="test")
    assert report["labels"] == list(labels)
    assert set(report["per_class"]) == set(labels)
    assert np.array(report["confusion_matrix"]).sum(axis=1).tolist() == [5, 5, 5]
    assert report["positive"] == read_bundle(three).findings[0].label


def test_predictions_are_written_picture_by_picture(model: Path, tmp_path: Path) -> None:
    source = joined(drawn(LABELS, 5), drawn(("covid",), 2, start=50))
    evaluate(model, source, split="test", predictions_csv=tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [item.path for item in source.items[:5]]
    assert list(rows[0]) == ["path", "label", "pneumonia", "distance", "refused"]
    scores = predict(model, source, split="test")
    assert [float(row["pneumonia"]) for row in rows] == pytest.approx(
        scores.outputs[:, 0].tolist(), abs=1e-6
    )
    assert [row["refused"] for row in rows] == [str(int(d > 1)) for d in scores.distance]


def test_memory_is_bounded_by_parts_that_give_the_same_scores(model: Path) -> None:
    source = drawn(LABELS, 70)
    whole = predict(model, source, split="test")
    assert len(source.reads) == 70
    tail = predict(model, replace(source, items=source.items[60:]), split="test")
    np.testing.assert_allclose(whole.outputs[60:], tail.outputs, atol=1e-5)


def test_the_bar_is_on_standard_error(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(model, drawn(LABELS, 4), split="test", progress=True)
    assert capsys.readouterr().out == ""


def written(place: Path, source: Drawn) -> None:
    """A folder with the source's manifest and pictures."""
    rows = io.StringIO()
    writer = csv.DictWriter(rows, ["path", "label", "split", "patient_id", "subtype"])
    writer.writeheader()
    for item in source.items:
        path = place / item.path
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(source.read(item)).astype(np.uint8)).save(path)
        row = {"path": item.path, "label": item.label, "split": item.split}
        writer.writerow({**row, "patient_id": item.group, **item.columns})
    (place / "manifest.csv").write_text(rows.getvalue())


def packed(place: Path, source: Drawn) -> Path:
    written(place, source)
    with tarfile.open(place.with_suffix(".tar"), "w") as archive:
        for path in sorted(place.rglob("*.*")):
            archive.add(path, str(path.relative_to(place)))
    return place.with_suffix(".tar")


def unpacked(place: Path, source: Drawn) -> Path:
    written(place, source)
    return place


@pytest.mark.parametrize("form", [unpacked, packed])
def test_published_sets_are_read(
    model: Path, tmp_path: Path, form: Callable[[Path, Drawn], Path]
) -> None:
    source = joined(drawn(LABELS, 8), drawn(LABELS, 4, split="train"))
    opened = open_source(form(tmp_path / "set", source))
    report = evaluate(model, opened, split="test", group_by="subtype")
    assert (report["n"], report["data"], report["resampled"]) == (8, "set", "groups")
    assert report["accuracy"] == pytest.approx(
        evaluate(model, source, split="test")["accuracy"], abs=0.13
    )


@pytest.mark.parametrize("form", [unpacked, packed])
def test_damaged_pictures_are_named_and_left_out(
    model: Path, tmp_path: Path, form: Callable[[Path, Drawn], Path]
) -> None:
    source = drawn(LABELS, 70)
    written(tmp_path / "set", source)
    content = (tmp_path / "set/test/67.png").read_bytes()
    (tmp_path / "set/test/2.png").write_bytes(b"no picture")
    (tmp_path / "set/test/67.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "set/test/5.png").unlink()
    Image.fromarray(np.full((40, 40), np.nan, np.float32)).save(tmp_path / "six.tif")
    (tmp_path / "six.tif").rename(tmp_path / "set/test/6.png")
    place = tmp_path / "set"
    if form is packed:
        with tarfile.open(tmp_path / "set.tar", "w") as archive:
            for path in sorted(place.rglob("*.*")):
                archive.add(path, str(path.relative_to(place)))
        place = tmp_path / "set.tar"
    report = evaluate(model, open_source(place), split="test")
    assert (report["n"], report["unreadable"], report["problem_count"]) == (66, 4, 4)
    for problem, words in zip(
        report["problems"],
        ("test/2.png cannot be decoded", "test/5.png is named but", "test/6.png holds", "test/67"),
        strict=True,
    ):
        assert words in problem


def test_where_nothing_can_be_read_the_first_picture_is_named(model: Path, tmp_path: Path) -> None:
    written(tmp_path / "set", drawn(LABELS, 4))
    for file in (tmp_path / "set/test").iterdir():
        file.write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"no picture of set can be read.*test/0\.png"):
        evaluate(model, open_source(tmp_path / "set"), split="test")


def test_where_no_row_is_a_picture_the_first_reason_is_said(model: Path, tmp_path: Path) -> None:
    (tmp_path / "films.csv").write_text("path,label\nabsent.dcm,\n")
    with pytest.raises(BadInput, match=r"no pictures; problems: 1.*absent\.dcm has no label"):
        evaluate(model, open_source(tmp_path / "films.csv"), split="test")
    (tmp_path / "films.csv").write_text("path,label\nabsent.dcm,normal\n")
    with pytest.raises(BadInput, match=r"no picture of films can be read.*absent\.dcm"):
        evaluate(model, open_source(tmp_path / "films.csv"), split="test")


def test_another_operating_point_calls_by_its_threshold(model: Path) -> None:
    source = drawn(LABELS, 20)
    used = evaluate(model, source, split="test")
    (finding,) = read_bundle(model).findings
    assert (used["operating_point"], used["threshold"]) == ("balanced", finding.threshold)
    seen = []
    for point in finding.operating_points:
        report = evaluate(model, source, split="test", operating_point=point.name)
        assert (report["operating_point"], report["threshold"]) == (point.name, point.threshold)
        assert report["accepted"]["threshold"] == point.threshold
        assert report["auc"] == used["auc"]
        seen.append(report["sensitivity"])
    assert seen == sorted(seen, reverse=True)
    with pytest.raises(BadInput, match=r"no operating point 'best'.*it has high_sensitivity"):
        evaluate(model, source, split="test", operating_point="best")


def test_of_points_at_one_threshold_the_balanced_one_is_named(model: Path, tmp_path: Path) -> None:
    alike = tmp_path / model.name
    shutil.copytree(model, alike)
    metadata = json.loads((alike / METADATA).read_text())
    (finding,) = metadata["dicom_node"]["findings"]
    for point in finding["operating_points"]:
        point["threshold"] = finding["threshold"]
    (alike / METADATA).write_text(json.dumps(metadata))
    assert evaluate(alike, drawn(LABELS, 4), split="test")["operating_point"] == "balanced"
    high, balanced, _ = finding["operating_points"]
    balanced["threshold"] = finding["threshold"] / 2
    (alike / METADATA).write_text(json.dumps(metadata))
    assert evaluate(alike, drawn(LABELS, 4), split="test")["operating_point"] == high["name"]


def test_all_refused_and_none_refused_are_figures_not_errors(model: Path) -> None:
    plain = drawn(LABELS, 12)
    striped = replace(plain, striped=frozenset(item.path for item in plain.items))
    report = evaluate(model, striped, split="test", group_by="subtype")
    assert (report["refused"], report["refused_fraction"]) == (12, 1.0)
    assert report["accuracy"] is not None
    assert (report["accepted"]["n"], report["accepted"]["auc"]) == (0, None)
    json.dumps(report, allow_nan=False)
    distance = predict(model, plain, split="test").distance
    inside = [item for item, far in zip(plain.items, distance, strict=True) if far <= 1]
    report = evaluate(model, replace(plain, items=tuple(inside)), split="test")
    assert (report["refused"], report["refused_fraction"]) == (0, 0.0)
    assert report["accepted"]["confusion_matrix"] == report["confusion_matrix"]


def test_dicom_headers_that_the_node_refuses_are_counted_apart(model: Path, tmp_path: Path) -> None:
    source = drawn(LABELS, 6)
    rows = ["path,label,split"]
    for number, item in enumerate(source.items):
        large = np.kron(source.read(item), np.ones((6, 6))).astype(np.uint16)
        age = "060Y" if number == 0 else "003Y"
        name = f"{number}.dcm"
        uid = f"2.25.{100 + number}"
        changes = {"PatientID": str(number), "SOPInstanceUID": uid, "PatientAge": age}
        dataset_of(large, **changes).save_as(tmp_path / name, enforce_file_format=True)
        rows.append(f"{name},{item.label},test")
    rows.append("absent.dcm,normal,test")
    (tmp_path / "films.csv").write_text("\n".join(rows) + "\n")
    opened = open_source(tmp_path / "films.csv")
    report = evaluate(model, opened, split="test")
    assert (report["n"], report["refused_by_header"]) == (6, 1)
    assert (report["unreadable"], report["problem_count"]) == (1, 1)
    assert "absent.dcm" in report["problems"][0]
    assert evaluate(model, source, split="test")["refused_by_header"] is None


def test_a_dicom_image_gets_the_score_that_the_node_gives(model: Path, tmp_path: Path) -> None:
    stored = np.kron(drawn(LABELS, 1).read(drawn(LABELS, 1).items[0]), np.ones((6, 6)))
    file = tmp_path / "film.dcm"
    dataset_of(stored.astype(np.uint16)).save_as(file, enforce_file_format=True)
    (tmp_path / "films.csv").write_text("path,label\nfilm.dcm,normal\n")
    bundle = read_bundle(model)
    classifier = open_classifier(bundle, device="cpu")
    outcome = score_radiographs(bundle, classifier, [read_frame(file)], out_of_scope="mark")
    predicted = predict(model, open_source(tmp_path / "films.csv"), split="test")
    (finding,) = outcome.prediction.findings
    assert predicted.outputs[0, 0] == pytest.approx(finding.probability, abs=1e-6)


def test_splits_are_asked_for_as_the_column_writes_them(model: Path, tmp_path: Path) -> None:
    written(tmp_path / "set", drawn(LABELS, 4))
    manifest = tmp_path / "set" / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",test,", ",Val,"))
    for word in ("Val", "val", "validation"):
        assert evaluate(model, open_source(tmp_path / "set"), split=word)["split"] == "validation"


def test_a_flag_that_says_no_is_no_flag(model: Path) -> None:
    plain = drawn(LABELS, 12)
    for word, kept in (("0", 12), ("no", 12), ("doubtful", 0)):
        flagged = [
            replace(item, columns={**item.columns, "label_flag": word}) for item in plain.items
        ]
        report = evaluate(model, replace(plain, items=tuple(flagged)), split="test")
        assert report["strict"]["n"] == kept
