"""Splits that do not leak, calibration that calibrates, numbers that an outside oracle confirms."""

from __future__ import annotations

import csv
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, brier_score_loss, recall_score, roc_auc_score

from training.calibrate import calibrate, operating_points
from training.data import Splits, augmenter, load
from training.evaluate import measure, strict_test
from training.recipes import RECIPES
from training.recipes.base import Recipe

COLUMNS = ("path", "label", "split", "group_id", "dup_group", "label_flag")


@pytest.fixture
def recipe() -> Recipe:
    return replace(RECIPES["ct-covid"], data_set="toy", folds=3)


@pytest.fixture
def splits(recipe: Recipe, tmp_path: Path) -> Splits:
    """A toy set: 36 training pictures of 12 groups (3 each), a copy of a test picture, a doubt."""
    rows = [
        (f"train/{n}.png", ("covid", "noncovid")[n // 3 % 2], "train", f"g{n // 3}", "", "")
        for n in range(36)
    ]
    rows += [
        ("train/copy.png", "covid", "train", "g90", "d1", ""),
        ("train/doubt.png", "covid", "train", "g91", "", "control"),
        ("train/twin1.png", "covid", "train", "g92", "d2", ""),
        ("train/twin2.png", "covid", "train", "g92", "d2", ""),
        *((f"train/big{n}.png", "covid", "train", "big", "", "") for n in range(10)),
        ("test/0.png", "covid", "test", "t0", "d1", ""),
        ("test/1.png", "noncovid", "test", "g1", "", ""),
        ("test/2.png", "noncovid", "test", "t2", "", "doubtful"),
        ("test/3.png", "noncovid", "test", "t3", "", ""),
    ]
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    with tarfile.open(tmp_path / "toy.tar", "w") as archive:
        _add(archive, "manifest.csv", buffer.getvalue().encode())
        for number, row in enumerate(rows):
            picture = np.random.default_rng(number).integers(0, 255, (40, 50), np.uint8)
            content = io.BytesIO()
            Image.fromarray(picture).save(content, "PNG")
            _add(archive, row[0], content.getvalue())
    return load(recipe, tmp_path)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def test_no_group_lies_on_both_sides_of_the_validation_split(splits: Splits) -> None:
    train, validation = (
        {picture.row["group_id"] for picture in part} for part in (splits.train, splits.validation)
    )
    assert validation
    assert not train & validation
    assert "big" in train


def test_copies_and_doubtful_labels_are_not_learned_from(splits: Splits) -> None:
    learned = {picture.row["path"] for picture in splits.train + splits.validation}
    assert not learned & {"train/copy.png", "train/doubt.png"}
    assert len(learned & {"train/twin1.png", "train/twin2.png"}) == 1
    assert not any(path.startswith("test/") for path in learned)
    assert len(splits.test) == 4


def test_the_strict_test_set_has_no_relatives_and_no_doubts(recipe: Recipe, splits: Splits) -> None:
    assert [picture.row["path"] for picture in strict_test(recipe, splits)] == ["test/3.png"]


def test_augmentation_is_seeded_and_varies(splits: Splits, recipe: Recipe) -> None:
    plane = splits.train[0].plane
    first, second = (np.asarray(augmenter(recipe.augmentation, 5)(plane)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, np.asarray(augmenter(recipe.augmentation, 6)(plane)))


def test_calibration_recovers_a_known_temperature_and_bias() -> None:
    generator = np.random.default_rng(1)
    truth = generator.normal(0, 2, 20_000)
    targets = (generator.uniform(size=truth.size) < 1 / (1 + np.exp(-truth))).astype(float)
    # Classes are equally frequent here, so weighting them equally changes nothing.
    found = calibrate(truth * 3 + 1.5, targets)
    assert found.temperature == pytest.approx(3, rel=0.05)
    assert found.bias == pytest.approx(-0.5, abs=0.05)
    assert found.apply(np.array([1.5]))[0] == pytest.approx(0.5, abs=0.02)


def test_operating_points_state_what_they_give() -> None:
    generator = np.random.default_rng(2)
    targets = np.repeat([0.0, 1.0], 500)
    scores = 1 / (1 + np.exp(-generator.normal(targets * 2 - 1, 1)))
    for point in operating_points(scores, targets):
        called = scores >= float(point["threshold"])
        assert called[targets == 1].mean() == pytest.approx(float(point["sensitivity"]), abs=1e-3)
        assert (~called)[targets == 0].mean() == pytest.approx(
            float(point["specificity"]), abs=1e-3
        )
    assert float(operating_points(scores, targets)[1]["sensitivity"]) >= 0.95


def test_numbers_are_what_scikit_learn_says_and_lie_in_their_intervals() -> None:
    generator = np.random.default_rng(3)
    targets = np.repeat([0.0, 1.0], [80, 120])
    scores = np.clip(generator.normal(0.35 + 0.3 * targets, 0.2), 0.01, 0.99)
    report = measure(scores, targets, 0.5, seed=4)
    called = scores >= 0.5
    expected = {
        "auc": roc_auc_score(targets, scores),
        "accuracy": accuracy_score(targets, called),
        "sensitivity": recall_score(targets, called),
        "specificity": recall_score(1 - targets, ~called),
        "brier": brier_score_loss(targets, scores),
    }
    for name, value in expected.items():
        assert report[name]["value"] == pytest.approx(value, abs=1e-4)
        low, high = report[name]["confidence_interval"]
        assert low < value < high
