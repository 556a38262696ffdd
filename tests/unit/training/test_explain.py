"""Heat maps depend on what was learned, and the lungs are where lungs are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dicom_node.score.bundle import read_bundle
from dicom_node.score.engine import open_classifier
from dicom_node.score.golden import synthetic_image
from dicom_node.score.networks import build
from dicom_node.score.transforms import FloatArray, Pipeline
from training.data import Item, Picture
from training.explain import (
    explain,
    explained_cases,
    inside_lungs,
    looked_at,
    randomised_correlation,
)
from training.lung_field import lung_field

MODELS = Path(__file__).parents[3] / "models"
MODEL = MODELS / "cxr_pneumonia"


def film(phase: float, *, height: int = 224, width: int = 224) -> FloatArray:
    """The synthetic chest: two dark ovals in a bright one, (rows, columns) in [0, 1]."""
    return synthetic_image(height, width, phase, hounsfield=False)


@pytest.fixture
def pictures() -> list[Picture]:
    """Synthetic films, alternately called normal and pneumonia."""
    pipeline = Pipeline(read_bundle(MODEL).inference.preprocessing)
    labels = ("normal", "pneumonia")
    return [
        Picture(
            Item(f"{number}.png", labels[number % 2], "test", f"g{number}", {}),
            pipeline.plane(film(number * 0.7)),
            number % 2,
        )
        for number in range(6)
    ]


def test_randomising_the_weights_changes_the_map(pictures: list[Picture]) -> None:
    bundle = read_bundle(MODEL)
    declared = bundle.inference.network
    network = build(declared.architecture, declared.outputs)
    network.load_state_dict(load_file(bundle.weights_path))
    pipeline = Pipeline(bundle.inference.preprocessing)
    images = np.stack([pipeline.tensor(picture.plane) for picture in pictures])
    correlations = []
    for seed in range(2):
        torch.manual_seed(seed)
        randomised = build(declared.architecture, declared.outputs)
        correlations.append(randomised_correlation(network, randomised, images, 0))
    assert np.mean(np.abs(correlations)) < 0.4
    assert randomised_correlation(network, network, images, 0) > 0.4


def test_explain_writes_grids_and_names_the_worst_cases(
    pictures: list[Picture], tmp_path: Path
) -> None:
    result = explain(MODEL, pictures, tmp_path / "out")
    assert result["n"] == sum(result["cases"].values()) == 6
    assert set(result["files"]) == {path.name for path in (tmp_path / "out").iterdir()}
    assert "failures.png" in result["files"]
    losses = [failure["loss"] for failure in result["failures"]]
    assert losses == sorted(losses, reverse=True)
    worst = result["failures"][0]
    right = worst["probability"] if worst["label"] == "pneumonia" else 1 - worst["probability"]
    assert worst["loss"] == pytest.approx(-np.log(right), abs=0.05)


def test_the_share_inside_the_lungs_is_that_of_the_map(pictures: list[Picture]) -> None:
    classifier = open_classifier(read_bundle(MODEL), device="cpu", threads=1)
    scores = classifier.predict([classifier.pipeline.tensor(p.plane) for p in pictures])
    explained = explained_cases(classifier, scores, pictures)
    explained.called[:] = True
    explained.maps[:] = 1
    planes = [picture.plane for picture in pictures]
    even = inside_lungs(explained, planes, lambda place: lung_field(planes[place][0]))
    assert even["n"] == 3
    assert even["inside"] == pytest.approx(even["by_chance"], abs=1e-3)
    explained.maps[:] = 0
    nothing = looked_at(classifier, explained, pictures)["inside_lungs"]
    assert nothing == {"n": 0, "left_out": 3, "inside": None, "by_chance": None}


def overlap(found: np.ndarray, expected: np.ndarray) -> float:
    """Dice coefficient."""
    return float(2 * (found & expected).sum() / (found.sum() + expected.sum()))


@pytest.mark.parametrize("slice_of_ct", [False, True])
@pytest.mark.parametrize(("height", "width"), [(224, 224), (300, 360)])
def test_lungs_are_found_where_they_were_drawn(slice_of_ct: bool, height: int, width: int) -> None:
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    drawn = ((np.abs(x) - 0.42) / 0.3) ** 2 + (y / 0.6) ** 2 < 1
    found = lung_field(film(1.0, height=height, width=width), slice_of_ct=slice_of_ct)
    assert found.mask.shape == (height, width)
    assert found.plausible
    assert overlap(found.mask, drawn) > 0.75


@pytest.mark.parametrize("slice_of_ct", [False, True])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_blank_slice_has_no_plausible_lungs(slice_of_ct: bool, level: float) -> None:
    blank = np.full((64, 64), level, np.float32)
    found = lung_field(blank, slice_of_ct=slice_of_ct)
    assert found.mask.shape == (64, 64)
    assert not (slice_of_ct and found.plausible)


def test_one_lung_is_no_pair() -> None:
    one = film(0.0)
    one[:, 112:] = np.where(one[:, 112:] < 0.6, 0.8, one[:, 112:])
    one[:, 112:] = np.maximum(one[:, 112:], 0.8)
    assert not lung_field(one, slice_of_ct=True).plausible
