"""The scope gate lets mild variations pass and refuses what is something else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dicom_node.score.alterations import Alterations
from dicom_node.score.preprocessing import Preprocessing, TransformSpec
from dicom_node.score.transforms import FloatArray, Pipeline
from training.gate import accepted, fit_scope, judge
from training.others import Others
from training.variations import ALTERATIONS, STRANGERS, Change, mild

SIDE = 32


@pytest.fixture
def pipeline() -> Pipeline:
    resize = TransformSpec(name="ResizeAntialiased", arguments={"rows": SIDE, "columns": SIDE})
    repeat = TransformSpec(name="RepeatChannel", arguments={"repeats": 3})
    return Pipeline(
        Preprocessing(input="display", rows=SIDE, columns=SIDE, display=(resize,), tensor=(repeat,))
    )


def planes(number: int, seed: int) -> list[FloatArray]:
    """Bright bodies with two dark lungs of varying place and size, (1, 32, 32) in [0, 1]."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    result = []
    for _ in range(number):
        size, place, level = generator.uniform([0.25, 0.38, 0.1], [0.32, 0.45, 0.3])
        lungs = ((np.abs(x) - place) / size) ** 2 + ((y + 0.15) / 0.6) ** 2 < 1
        picture = np.where(lungs, level, 0.8) + generator.normal(0, 0.02, lungs.shape)
        result.append(np.clip(picture, 0, 1).astype(np.float32)[np.newaxis])
    return result


def embed(images: FloatArray) -> FloatArray:
    """Means of 8 x 8 tiles: (N, 3, 32, 32) to (N, 64)."""
    tiles = images[:, 0].reshape(len(images), 8, 4, 8, 4).mean(axis=(2, 4))
    return np.asarray(tiles.reshape(len(images), 64))


def test_the_gate_accepts_its_like_and_refuses_outsiders(pipeline: Pipeline) -> None:
    gate = fit_scope(embed, pipeline, planes(120, 1), planes(60, 2), groups=60, seed=3)
    stripes = [np.tile(np.array([0, 1], np.float32), (1, SIDE, SIDE // 2))] * 5
    others = [Others("stripes", stripes), Others("more of them", planes(20, 5), outside=False)]
    shares = judge(gate, embed, pipeline, planes(60, 4), name="new", others=others, seed=5)
    assert shares["new"]["refused"] <= 0.1
    assert shares["new, mildly varied"]["refused"] <= 0.15
    for name in ("noise", "squeezed to half the height", "stripes"):
        assert shares[name] == {"n": shares[name]["n"], "refused": 1.0, "outside": True}
    assert shares["stripes"]["n"] == 5
    assert not shares["more of them"]["outside"]
    assert shares["more of them"]["refused"] <= 0.1
    for name in ALTERATIONS:
        assert shares[name]["refused"] == 1
    assert set(STRANGERS) < set(shares)


def marked(number: int, seed: int) -> list[FloatArray]:
    """Tiles of every gray, somewhat brighter in the upper half: no single tile tells what is up."""
    generator = np.random.default_rng(seed)
    tiles = generator.uniform(size=(number, 8, 8))
    tiles[:, :4] = 0.4 + 0.6 * tiles[:, :4]
    return [np.kron(each, np.ones((4, 4))).astype(np.float32)[np.newaxis] for each in tiles]


def test_alterations_are_refused_that_lie_near_the_training_pictures(pipeline: Pipeline) -> None:
    gate = fit_scope(embed, pipeline, marked(300, 1), marked(60, 2), groups=60, seed=3)
    near = replace(gate, alterations=Alterations.none(64))
    kinds = ("upside down", "rotated by 180 degrees", "inverted")
    shares, by_distance = (
        judge(asked, embed, pipeline, marked(60, 4), name="new", others=(), seed=5)
        for asked in (gate, near)
    )
    assert min(shares[name]["refused"] for name in kinds) > 0.9
    assert max(by_distance[name]["refused"] for name in kinds) < 0.4
    assert shares["inverted"]["named"] > 0.8
    assert shares["new"]["refused"] <= 0.15


def test_a_picture_that_is_rather_not_altered_is_not_refused_for_it(pipeline: Pipeline) -> None:
    gate = fit_scope(embed, pipeline, planes(120, 1), planes(60, 2), groups=60, seed=3)
    assert gate.alterations.unit * gate.limit >= np.log(2) * (1 - 1e-6)


def test_the_limit_lets_nearly_all_validation_pictures_pass(pipeline: Pipeline) -> None:
    validation = planes(60, 2)
    gate = fit_scope(embed, pipeline, planes(120, 1), validation, groups=len(validation), seed=3)
    distance = gate.distance(embed(np.stack([pipeline.tensor(plane) for plane in validation])))
    assert gate.limit > 0
    assert (distance > 1).mean() <= 0.05


@pytest.mark.parametrize(
    ("groups", "share"),
    # By hand: 0.95 ** 40 > 0.1, so none of 40 may be beyond the limit; of 84 one may.
    [(1, 1.0), (40, 1.0), (84, 1 - 1 / 84), (621, 0.97)],
)
def test_of_few_patients_more_must_pass(groups: int, share: float) -> None:
    assert accepted(groups) == pytest.approx(share)


@pytest.mark.parametrize(("pictures", "groups", "beyond"), [(40, 40, 0), (84, 84, 3), (84, 32, 0)])
def test_the_limit_lies_where_that_share_passes(
    pictures: int, groups: int, beyond: int, pipeline: Pipeline
) -> None:
    seen: list[FloatArray] = []

    def remembered(images: FloatArray) -> FloatArray:
        seen.append(embed(images))
        return seen[-1]

    gate = fit_scope(
        remembered, pipeline, planes(120, 1), planes(pictures, 2), groups=groups, seed=3
    )
    # Last come the validation pictures, each with two variations.
    held_out = np.concatenate(seen)[-3 * pictures :]
    assert int((gate.distance(held_out) > 1 + 1e-6).sum()) == beyond


def test_the_same_seed_gives_the_same_gate(pipeline: Pipeline) -> None:
    limits = {
        fit_scope(embed, pipeline, planes(40, 1), planes(20, 2), groups=20, seed=seed).limit
        for seed in (3, 3, 4)
    }
    assert len(limits) == 2


def test_few_pictures_still_make_a_gate(pipeline: Pipeline) -> None:
    gate = fit_scope(embed, pipeline, planes(4, 1), planes(2, 2), groups=2, seed=3)
    assert len(gate.components) == 1


def test_variations_stay_pictures_and_leave_the_original_alone() -> None:
    generator = np.random.default_rng(6)
    plane = planes(1, 7)[0]
    before = plane.copy()
    made = [mild(plane, generator) for _ in range(20)]
    made += [change(plane, generator) for change in outsiders()]
    for picture in made:
        assert picture.shape == plane.shape
        assert picture.dtype == np.float32
        assert picture.min() >= 0
        assert picture.max() <= 1
    np.testing.assert_array_equal(plane, before)
    assert all(np.abs(picture - plane).mean() < 0.2 for picture in made[:20])


def test_outsiders_keep_the_shape_of_oblong_planes() -> None:
    plane = np.random.default_rng(8).uniform(size=(1, 24, 40)).astype(np.float32)
    generator = np.random.default_rng(9)
    assert {change(plane, generator).shape for change in outsiders()} == {(1, 24, 40)}


def outsiders() -> list[Change]:
    return [change for _, change in ALTERATIONS.values()] + list(STRANGERS.values())
