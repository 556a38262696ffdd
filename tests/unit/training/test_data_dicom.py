"""What a network is trained on is what the node feeds it, for the same DICOM file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from dicom_node.demo.phantom import write_thorax_phantom
from dicom_node.paths import SHIPPED_MODELS
from dicom_node.score.bundle import read_bundle
from dicom_node.score.engine import Classifier, Scores, open_classifier
from dicom_node.score.study import score_files
from dicom_node.score.transforms import FloatArray
from tests.unit.score.synthetic import chest_like, dataset_of
from training.data import Item, Source, load_pictures, open_source
from training.data.dicom import SLICES_PER_SERIES
from training.errors import TrainingDataError

NOW = datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC)
RADIOGRAPH, CT = "cxr_pneumonia", "ct_covid"


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A CT series, one file a slice."""
    folder = tmp_path_factory.mktemp("phantom") / "series"
    return write_thorax_phantom(folder, seed="parity", now=NOW, slices=30, matrix=96)


@pytest.fixture(scope="module")
def cxr() -> Classifier:
    return open_classifier(read_bundle(SHIPPED_MODELS / RADIOGRAPH), device="cpu")


@pytest.fixture(scope="module")
def ct() -> Classifier:
    return open_classifier(read_bundle(SHIPPED_MODELS / CT), device="cpu")


class Fed(Exception):
    """The network was about to see these tensors."""

    def __init__(self, tensors: Sequence[FloatArray]) -> None:
        super().__init__()
        self.tensors = list(tensors)


def film(path: Path, stored: NDArray[Any] | None = None, **attributes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = (chest_like(60, 50).astype(np.uint16) * 16) if stored is None else stored
    attributes = {"BitsStored": 12, "HighBit": 11} | attributes
    dataset_of(values, **attributes).save_as(path, enforce_file_format=True)
    return path


def listed(folder: Path, *rows: Sequence[str], header: Sequence[str] = ("path", "label")) -> Source:
    with (folder / "list.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return open_source(folder / "list.csv")


def fed(
    classifier: Classifier, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> list[FloatArray]:
    """The tensors that the node's scoring gives the network for these files."""

    def refuse(self: Classifier, tensors: Sequence[FloatArray]) -> Scores:
        raise Fed(tensors)

    monkeypatch.setattr(Classifier, "predict", refuse)
    with pytest.raises(Fed) as caught:
        score_files(classifier.bundle, classifier, paths, out_of_scope="mark")
    return caught.value.tensors


def learned(source: Source, classifier: Classifier) -> list[FloatArray]:
    """The tensors that training gives the network, without augmentation."""
    labels = classifier.bundle.metadata.dicom_node.labels
    loaded = load_pictures(source, classifier.pipeline, labels)
    assert loaded.unknown == {}
    return [classifier.pipeline.tensor(picture.plane) for picture in loaded.pictures]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("modality", ["CR", "DX"])
def test_a_radiograph_is_learned_as_it_is_scored(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cxr: Classifier,
    photometric: str,
    modality: str,
) -> None:
    path = film(
        tmp_path / "film.dcm",
        Modality=modality,
        PhotometricInterpretation=photometric,
        WindowCenter=2000,
        WindowWidth=3000,
    )
    source = listed(tmp_path, ("film.dcm", "pneumonia"))
    (expected,) = fed(cxr, [path], monkeypatch)
    (found,) = learned(source, cxr)
    np.testing.assert_array_equal(found, expected)
    assert source.items[0].units == "display"


@pytest.mark.parametrize("axes", [(), (0,), (1,)])
def test_a_series_is_learned_slice_by_slice_as_it_is_scored(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ct: Classifier,
    phantom: list[Path],
    axes: tuple[int, ...],
) -> None:
    paths = turned(phantom, tmp_path / "series", axes)
    source = listed(tmp_path, ("series/", "covid"))
    expected = fed(ct, paths, monkeypatch)
    found = learned(source, ct)
    np.testing.assert_array_equal(np.stack(found), np.stack(expected))
    assert {(item.label, item.units) for item in source.items} == {("covid", "hounsfield")}
    assert len({item.path for item in source.items}) == len(source.items)
    assert source.items[0].path.startswith("series#")


def test_single_slices_are_learned_as_those_of_their_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ct: Classifier, phantom: list[Path]
) -> None:
    paths = turned(phantom, tmp_path / "series", (0, 1))
    source = listed(tmp_path, *[(f"series/{path.name}", "covid") for path in paths])
    expected = fed(ct, paths, monkeypatch)
    found = {tensor.tobytes() for tensor in learned(source, ct)}
    assert {tensor.tobytes() for tensor in expected} <= found


def turned(paths: list[Path], folder: Path, axes: tuple[int, ...]) -> list[Path]:
    """The same patient, stored with rows or columns running the other way."""
    folder.mkdir()
    copies = []
    for path in paths:
        data = pydicom.dcmread(path)
        down, across = (float(value) for value in data.PixelSpacing)
        x, y, z = (float(value) for value in data.ImagePositionPatient)
        data.PixelData = np.flip(data.pixel_array, axes).tobytes()
        left, up = 1 in axes, 0 in axes
        data.ImageOrientationPatient = [-1 if left else 1, 0, 0, 0, -1 if up else 1, 0]
        data.ImagePositionPatient = [
            x + left * (data.Columns - 1) * across,
            y + up * (data.Rows - 1) * down,
            z,
        ]
        copies.append(folder / path.name)
        data.save_as(copies[-1])
    return copies


def test_a_series_gives_as_many_slices_as_the_shipped_model_looks_at() -> None:
    rule = read_bundle(SHIPPED_MODELS / CT).metadata.dicom_node.aggregation
    assert rule is not None
    assert rule.slices == SLICES_PER_SERIES


def test_patients_are_grouped_by_a_digest_and_never_named(tmp_path: Path) -> None:
    film(tmp_path / "1.dcm", PatientID="MARKER-77")
    film(tmp_path / "2.dcm", PatientID=" MARKER-77", StudyInstanceUID="2.25.9")
    film(tmp_path / "3.dcm", StudyInstanceUID="2.25.777777")
    film(tmp_path / "4.dcm", PatientID="", StudyInstanceUID="2.25.777777")
    source = listed(tmp_path, *[(f"{number}.dcm", "normal") for number in range(1, 5)])
    groups = [item.group for item in source.items]
    assert [len(group) for group in groups] == [12] * 4
    assert groups[0] == groups[1] != groups[2] == groups[3]
    assert "MARKER" not in repr(source.items)
    assert "777777" not in repr(source.items)


def test_the_group_of_the_table_goes_before_that_of_the_file(tmp_path: Path) -> None:
    film(tmp_path / "1.dcm", PatientID="p")
    film(tmp_path / "2.dcm", PatientID="p")
    rows = ("1.dcm", "normal", "child 1"), ("2.dcm", "normal", "")
    first, second = listed(tmp_path, *rows, header=("path", "label", "group")).items
    assert first.group == "child 1"
    assert len(second.group) == 12


def test_dicom_files_in_class_folders_are_read(tmp_path: Path) -> None:
    film(tmp_path / "normal/1.dcm", Modality="CR")
    film(tmp_path / "pneumonia/2.DCM")
    source = open_source(tmp_path)
    assert [item.label for item in source.items] == ["normal", "pneumonia"]
    for item in source.items:
        image = source.read(item)
        assert image.shape == (60, 50)
        assert image.dtype == np.float32
        assert 0 <= image.min() <= image.max() <= 1


def test_what_the_node_could_not_score_is_a_problem_that_names_the_row(
    tmp_path: Path, phantom: list[Path]
) -> None:
    film(tmp_path / "mr.dcm", Modality="MR")
    (tmp_path / "text.dcm").write_text("no DICOM")
    (tmp_path / "empty").mkdir()
    film(tmp_path / "films/1.dcm")
    copies = turned(phantom[:2], tmp_path / "two", ())
    other = pydicom.dcmread(copies[0])
    other.SeriesInstanceUID, other.SOPInstanceUID = "2.25.5", "2.25.6"
    other.save_as(copies[0])
    (copy,) = turned(phantom[:1], tmp_path / "copy", ())
    (tmp_path / "copy" / "again.dcm").write_bytes(copy.read_bytes())
    coronal = pydicom.dcmread(phantom[0])
    coronal.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    coronal.save_as(tmp_path / "coronal.dcm")
    turned(phantom[:1], tmp_path / "thin", ())
    names = ("mr.dcm", "text.dcm", "empty", "films", "two", "copy", "coronal.dcm", "thin")
    source = listed(tmp_path, *[(name, "covid") for name in names])
    assert source.problems == ()
    assert [item.path for item in source.items] == list(names)
    for item, words in zip(
        source.items,
        (
            "Modality (0008,0060) is MR",
            "not readable as DICOM",
            "holds no file",
            "Modality (0008,0060) is DX in a folder",
            "holds 2 series",
            "holds an instance twice",
            "the image is coronal",
            "lung",
        ),
        strict=True,
    ):
        with pytest.raises(TrainingDataError, match=f"^list: {item.path}: ") as caught:
            source.read(item)
        assert words in str(caught.value)


def test_damaged_pixels_are_named_when_they_are_read(tmp_path: Path) -> None:
    path = film(tmp_path / "film.dcm")
    path.write_bytes(path.read_bytes()[:-1000])
    source = listed(tmp_path, ("film.dcm", "normal"))
    item: Item = source.items[0]
    with pytest.raises(TrainingDataError, match=r"list: film.dcm: .*Pixel Data"):
        source.read(item)
