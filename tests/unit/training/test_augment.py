"""Variations are seeded, keep planes in [0, 1] and do what their names say."""

from __future__ import annotations

import numpy as np
import pytest

from dicom_node.errors import BadInput
from dicom_node.score.preprocessing import TransformSpec
from training.augment import RandBorder, RandJPEG, RandLowResolution, augmenter, vary
from training.recipes import RECIPES
from training.recipes.common import spec

PLANE = np.random.default_rng(3).uniform(0, 1, (1, 48, 48)).astype(np.float32)


@pytest.mark.parametrize("name", [n for n, recipe in RECIPES.items() if recipe.augmentation])
def test_every_recipe_varies_planes_as_seeded(name: str) -> None:
    augment = augmenter(RECIPES[name].augmentation, 1, 48)
    first, other, again = (vary(augment, PLANE, seed) for seed in (5, 6, 5))
    assert first.shape == PLANE.shape
    assert first.dtype == np.float32
    assert first.min() >= 0
    assert first.max() <= 1
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_jpeg_loses_more_at_lower_quality() -> None:
    losses = [
        np.abs(RandJPEG(1.0, (quality, quality))(PLANE) - PLANE).mean() for quality in (10, 95)
    ]
    assert 0 < losses[1] < losses[0] < 0.3


def test_low_resolution_takes_fine_detail_away() -> None:
    coarse = RandLowResolution(1.0, (0.25, 0.25))(PLANE)
    assert coarse.shape == PLANE.shape
    assert np.diff(coarse, axis=2).std() < 0.3 * np.diff(PLANE, axis=2).std()
    assert coarse.mean() == pytest.approx(PLANE.mean(), abs=0.02)


def test_a_border_is_one_gray_and_the_inside_is_kept() -> None:
    border = RandBorder(1.0, 0.1)
    border.set_random_state(seed=1)
    framed = border(PLANE)
    np.testing.assert_array_equal(framed[:, 5:-5, 5:-5], PLANE[:, 5:-5, 5:-5])
    changed = framed[framed != PLANE]
    assert changed.size > 0
    assert np.unique(changed).size == 1


def test_probability_zero_changes_nothing() -> None:
    specs = (
        spec("RandJPEG", prob=0.0, quality=(10, 20)),
        spec("RandLowResolution", prob=0.0, zoom=(0.2, 0.5)),
        spec("RandBorder", prob=0.0, fraction=0.1),
    )
    np.testing.assert_array_equal(vary(augmenter(specs, 1, 48), PLANE, 9), PLANE)


def test_shares_become_pixels_of_the_side() -> None:
    holes = spec("RandCoarseDropout", prob=1.0, holes=1, spatial_size=0.25, fill_value=0.0)
    blanked = vary(augmenter((holes,), 1, 48), PLANE, 2)
    assert int((blanked == 0).sum()) == 12 * 12


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (spec("RandSmartCrop"), "'RandSmartCrop' is not allowed"),
        (spec("RandFlip", wings=2), "does not take its arguments"),
        (spec("RandJPEG", prob=1.0, quality=(90, 30)), "quality"),
        (spec("RandLowResolution", prob=1.0, zoom=(0.0, 2.0)), "zoom"),
        (spec("RandBorder", prob=1.0, fraction=0.7), "fraction"),
    ],
)
def test_what_cannot_be_is_refused(wrong: TransformSpec, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        augmenter((wrong,), 1, 48)
