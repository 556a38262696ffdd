"""From a CT series to a prediction on the series and the slices that decided."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from dicom_node.demo.phantom import write_thorax_phantom
from dicom_node.domain.findings import Level
from dicom_node.score.bundle import read_bundle
from dicom_node.score.ct import series_probability
from dicom_node.score.engine import Classifier, OnnxRuntime, Scores, open_classifier
from dicom_node.score.lungs import choose_slices, find_lungs
from dicom_node.score.outcome import Outcome, OutOfScope
from dicom_node.score.scope import fit_gate
from dicom_node.score.study import score_files
from dicom_node.score.volume import build_volume
from tests.unit.score.folders import CT, copy_model

NOW = datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("series")
    return write_thorax_phantom(folder, seed="ct", now=NOW, slices=30, matrix=256)


def score(ct: Classifier, paths: list[Path], out_of_scope: OutOfScope = "refuse") -> Outcome:
    return score_files(ct.bundle, ct, paths, out_of_scope=out_of_scope)


def edited(paths: list[Path], folder: Path, **attributes: object) -> list[Path]:
    """Copies of a series with other attributes."""
    copies = []
    for path in paths:
        data = pydicom.dcmread(path)
        for keyword, value in attributes.items():
            setattr(data, keyword, value)
        copies.append(folder / path.name)
        data.save_as(copies[-1])
    return copies


def test_a_series_gets_one_score_and_its_deciding_slices(
    ct: Classifier, series: list[Path]
) -> None:
    outcome = score(ct, series)
    prediction = outcome.prediction
    assert prediction.not_analysed is None
    whole, *slices = prediction.findings
    assert whole.level is Level.SERIES
    assert [finding.level for finding in slices] == [Level.SLICE] * 5
    probabilities = [finding.probability for finding in slices]
    assert probabilities == sorted(probabilities, reverse=True)
    assert whole.sop_instance_uid == slices[0].sop_instance_uid
    assert whole.probability <= probabilities[0]
    assert {finding.threshold for finding in prediction.findings} == {whole.threshold}
    assert len(prediction.source_sop_instance_uids) == 30
    for index, (image, finding) in enumerate(zip(prediction.key_images, slices, strict=True)):
        assert image.sop_instance_uid == finding.sop_instance_uid
        assert image.instance_number is not None
        assert outcome.arrays[f"display_{index}"].shape == (256, 256)
        heat = outcome.arrays[f"heat_{index}"]
        assert 0 <= heat.min() <= heat.max() <= 1
        if finding.box is not None:
            left, top, right, bottom = finding.box
            assert 0 <= left < right <= 256
            assert 0 <= top < bottom <= 256


def test_the_order_of_the_files_does_not_matter(ct: Classifier, series: list[Path]) -> None:
    assert score(ct, series[::-1]).prediction == score(ct, series).prediction


def test_a_series_stored_turned_gets_the_same_score(
    ct: Classifier, series: list[Path], tmp_path: Path
) -> None:
    turned = []
    for path in series:
        data = pydicom.dcmread(path)
        across, down = (float(value) for value in data.PixelSpacing[::-1])
        data.PixelData = data.pixel_array[::-1, ::-1].tobytes()
        data.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
        x, y, z = (float(value) for value in data.ImagePositionPatient)
        data.ImagePositionPatient = [x + 255 * across, y + 255 * down, z]
        turned.append(tmp_path / path.name)
        data.save_as(turned[-1])
    plain, rotated = (score(ct, paths) for paths in (series, turned))
    expected, found = (outcome.prediction.findings[0] for outcome in (plain, rotated))
    assert found.probability == pytest.approx(expected.probability, abs=1e-5)
    np.testing.assert_allclose(
        rotated.arrays["heat_0"], plain.arrays["heat_0"][::-1, ::-1], atol=1e-3
    )


def test_a_child_is_refused_or_marked(ct: Classifier, series: list[Path], tmp_path: Path) -> None:
    young = edited(series, tmp_path, PatientAge="010Y")
    refused = score(ct, young).prediction
    assert refused.not_analysed == "age 10 years is outside 18-120 years"
    assert [image.has_heat for image in refused.key_images] == [False]
    marked = score(ct, young, "mark").prediction
    assert marked.findings
    assert marked.marks[0] == "outside intended use: age 10 years is outside 18-120 years"


def test_a_series_without_lungs_is_never_scored(
    ct: Classifier, series: list[Path], tmp_path: Path
) -> None:
    solid = []
    for path in series:
        data = pydicom.dcmread(path)
        values = data.pixel_array.copy()
        inside = np.zeros(values.shape, bool)
        inside[60:200, 30:226] = True
        values[inside & (values < 900)] = 1064
        data.PixelData = values.tobytes()
        solid.append(tmp_path / path.name)
        data.save_as(solid[-1])
    prediction = score(ct, solid, "mark").prediction
    assert prediction.findings == ()
    assert "lung" in str(prediction.not_analysed)


def test_a_slice_that_cannot_be_decoded_is_said(
    ct: Classifier, series: list[Path], tmp_path: Path
) -> None:
    copies = [Path(shutil.copy(path, tmp_path)) for path in series]
    data = pydicom.dcmread(copies[11])
    data.BitsAllocated, data.BitsStored, data.HighBit = 32, 32, 31
    data.save_as(copies[11])
    prediction = score(ct, copies).prediction
    assert prediction.findings
    assert any("1 slice" in mark for mark in prediction.marks)


def test_the_series_score_is_the_mean_of_the_highest_share() -> None:
    probabilities = np.array([0.1, 0.9, 0.5, 0.7])
    assert series_probability(probabilities, 0.5) == pytest.approx(0.8)
    assert series_probability(probabilities, 0.01) == pytest.approx(0.9)
    assert series_probability(probabilities, 1.0) == pytest.approx(0.55)


def gated(ct: Classifier, folder: Path, limit: float, paths: list[Path]) -> Classifier:
    """The CT model with a gate from the phantom's own slices, and with this limit."""
    volume = build_volume(paths)
    chosen = choose_slices(volume, find_lungs(volume), count=24)
    tensors = np.stack([ct.pipeline.prepare(volume.hu[index]).tensor for index in chosen])
    gate = fit_gate(OnnxRuntime(ct.bundle, 1).run(tensors).embedding, 4)
    return open_classifier(
        read_bundle(copy_model(CT, folder, gate.with_limit(limit))), device="cpu"
    )


def test_a_series_most_of_whose_slices_are_unlike_the_known_ones_is_refused_or_marked(
    ct: Classifier, series: list[Path], tmp_path: Path
) -> None:
    strict = gated(ct, tmp_path, 1e-3, series)
    refused = score(strict, series).prediction
    found = UNLIKE.fullmatch(str(refused.not_analysed))
    assert found is not None
    assert int(found[1]) == int(found[2])
    assert float(found[3]) > 1
    assert [image.has_heat for image in refused.key_images] == [False]
    marked = score(strict, series, "mark").prediction
    assert len(marked.findings) == 6
    assert UNLIKE.fullmatch(marked.marks[0].removeprefix("outside intended use: "))


def test_a_series_passes_the_gate_while_no_more_than_half_of_its_slices_are_refused(
    ct: Classifier, series: list[Path], tmp_path: Path
) -> None:
    lenient = gated(ct, tmp_path, 100.0, series)
    assert score(lenient, series).prediction == replace(
        score(ct, series).prediction, model=lenient.bundle.identity
    )


@pytest.mark.parametrize(("beyond", "analysed"), [(5, True), (6, False)])
def test_half_of_the_slices_may_lie_beyond_the_limit(
    beyond: int, analysed: bool, ct: Classifier, series: list[Path], monkeypatch: Any
) -> None:
    predict = ct.predict

    def far(tensors: Any) -> Scores:
        scores = predict(tensors)
        distance = np.where(np.arange(len(tensors)) < beyond * len(tensors) / 10, 1.5, 0.5)
        return replace(scores, distance=distance)

    monkeypatch.setattr(ct, "predict", far)
    prediction = score(ct, series).prediction
    assert (prediction.not_analysed is None) == analysed


@pytest.mark.parametrize(("altered", "said"), [(8, "; most look rotated"), (7, "")])
def test_what_most_of_the_refused_slices_look_like_is_said(
    altered: int, said: str, ct: Classifier, series: list[Path], monkeypatch: Any
) -> None:
    predict = ct.predict

    def turned(tensors: Any) -> Scores:
        assert len(tensors) == 20
        distance = np.array([1.5] * 14 + [0.5] * 6)
        looks = ("rotated",) * altered + ("",) * (20 - altered)
        return replace(predict(tensors), distance=distance, looks=looks)

    monkeypatch.setattr(ct, "predict", turned)
    found = UNLIKE.match(str(score(ct, series).prediction.not_analysed))
    assert found is not None
    assert found.string[found.end() :] == said


UNLIKE = re.compile(
    r"(\d+) of (\d+) slices are unlike the ones the model was made from "
    r"\(scope distance up to (\d+\.\d\d), at most 1\.00\)"
)
