"""The scope gate takes what is like the training images and refuses what is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from dicom_node.errors import ModelError
from dicom_node.score.alterations import Alterations
from dicom_node.score.scope import ScopeGate, fit_gate

FEATURES, DIRECTIONS = 30, 5
REFUSED = 0.02


def images(count: int, seed: int, shift: float = 0.0) -> NDArray[np.float32]:
    """Embeddings near a plane of a few directions; `shift` moves them off it."""
    plane = np.random.default_rng(0).normal(size=(DIRECTIONS, FEATURES))
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(count, DIRECTIONS)) @ plane
    values += generator.normal(scale=0.2, size=values.shape) + shift
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def gate() -> ScopeGate:
    fitted = fit_gate(images(2000, 1), DIRECTIONS)
    return fitted.with_limit(float(np.quantile(fitted.distance(images(2000, 2)), 1 - REFUSED)))


@pytest.fixture(scope="module")
def asking(gate: ScopeGate) -> ScopeGate:
    """The gate, which also takes a high first feature for an inverted picture."""
    weights = np.zeros((1, FEATURES), np.float32)
    weights[0, 0] = 2
    offsets = np.array([-3.0], np.float32)
    unit = float(np.float32(1.5 / gate.limit))
    return replace(gate, alterations=Alterations(("inverted",), weights, offsets, unit))


def test_an_altered_image_is_refused_though_it_is_near(gate: ScopeGate, asking: ScopeGate) -> None:
    standard = gate.standardised(images(500, 12))
    # Evidence log(1 + exp(2 x - 3)) is 1.5 where x is (log(exp(1.5) - 1) + 3) / 2.
    altered = standard[:, 0] > (np.log(np.exp(1.5) - 1) + 3) / 2
    far = gate.distance(images(500, 12)) > 1
    assert 0 < altered.sum() < 100
    assert (altered & ~far).any()
    np.testing.assert_array_equal(asking.distance(images(500, 12)) > 1, altered | far)
    plain = altered & ~far
    looks = np.array(asking.looks(images(500, 12)))
    assert plain.any()
    assert set(looks[plain]) == {"inverted"}
    assert set(looks[~altered]) == {""}


def test_no_word_is_said_of_a_foreign_image_unless_plainly(
    gate: ScopeGate, asking: ScopeGate
) -> None:
    foreign = images(200, 14, shift=2.0)
    far = gate.distance(foreign)
    loud = replace(asking.alterations, weights=20 * asking.alterations.weights)
    # The evidence is log(1 + exp(40 x - 3)) / 1.5, x being the first standardised feature.
    evidence = np.logaddexp(0, 40 * gate.standardised(foreign)[:, 0] - 3) / 1.5
    said = np.array(replace(asking, alterations=loud).looks(foreign)) == "inverted"
    assert (far > 1).all()
    assert 0 < said.sum() < (evidence > 1).sum()
    np.testing.assert_array_equal(said, (evidence > 1) & (evidence > 2 * far))


def test_a_wider_limit_is_wider_for_altered_images_too(asking: ScopeGate) -> None:
    wide = asking.with_limit(2 * asking.limit)
    np.testing.assert_allclose(2 * wide.distance(images(50, 12)), asking.distance(images(50, 12)))
    assert (
        0
        < sum(map(bool, wide.looks(images(500, 12))))
        < sum(map(bool, asking.looks(images(500, 12))))
    )


def test_training_images_are_about_one_from_themselves() -> None:
    distance = fit_gate(images(2000, 1), DIRECTIONS).distance(images(2000, 1))
    assert 0.8 < np.median(distance) < 1.2


def test_images_of_the_same_kind_are_refused_as_often_as_the_limit_says(gate: ScopeGate) -> None:
    refused = np.mean(gate.distance(images(5000, 3)) > 1)
    assert REFUSED / 2 < refused < REFUSED * 2


@pytest.mark.parametrize("shift", [2.0, -2.0])
def test_images_off_the_plane_are_refused(gate: ScopeGate, shift: float) -> None:
    assert np.mean(gate.distance(images(500, 4, shift=shift)) > 1) > 0.95


def test_images_far_out_along_the_plane_are_refused(gate: ScopeGate) -> None:
    assert np.mean(gate.distance(images(500, 5) * 8) > 1) > 0.99


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_an_embedding_that_is_no_number_is_refused(asking: ScopeGate, value: float) -> None:
    spoiled = images(2, 6)
    spoiled[0, 3] = value
    distance = asking.distance(spoiled)
    assert distance[0] > 1
    assert not np.isnan(distance).any()
    assert len(asking.looks(spoiled)) == 2


def test_a_gate_comes_back_from_its_file_as_it_was(asking: ScopeGate, tmp_path: Path) -> None:
    asking.save(tmp_path / "scope.safetensors")
    again = ScopeGate.load(tmp_path / "scope.safetensors", asking.limit, ("inverted",))
    probes = images(50, 7)
    np.testing.assert_array_equal(again.distance(probes), asking.distance(probes))
    assert again.looks(probes) == asking.looks(probes)
    half = ScopeGate.load(tmp_path / "scope.safetensors", asking.limit / 2, ("inverted",))
    np.testing.assert_allclose(half.distance(probes), 2 * asking.distance(probes))


def test_arrays_may_lie_in_memory_as_they_like(asking: ScopeGate, tmp_path: Path) -> None:
    weights = np.random.default_rng(13).normal(size=(2, FEATURES)).astype(np.float32)
    words = ("inverted", "rotated")
    turned = replace(
        asking,
        components=np.asfortranarray(asking.components),
        alterations=Alterations(words, np.asfortranarray(weights), np.zeros(2, np.float32), 1.0),
    )
    turned.save(tmp_path / "scope.safetensors")
    again = ScopeGate.load(tmp_path / "scope.safetensors", asking.limit, words)
    probes = images(50, 7)
    np.testing.assert_allclose(again.distance(probes), turned.distance(probes))
    assert again.looks(probes) == turned.looks(probes)


def test_a_gate_without_alterations_comes_back_too(gate: ScopeGate, tmp_path: Path) -> None:
    gate.save(tmp_path / "scope.safetensors")
    again = ScopeGate.load(tmp_path / "scope.safetensors", gate.limit)
    np.testing.assert_array_equal(again.distance(images(50, 7)), gate.distance(images(50, 7)))


@pytest.mark.parametrize("words", [(), ("rotated", "inverted")])
def test_a_word_for_each_alteration_is_wanted(
    words: tuple[str, ...], asking: ScopeGate, tmp_path: Path
) -> None:
    asking.save(tmp_path / "scope.safetensors")
    with pytest.raises(ModelError, match="its alteration_weights has shape"):
        ScopeGate.load(tmp_path / "scope.safetensors", 1.0, words)


def test_more_directions_than_images_allow_are_left_out() -> None:
    gate = fit_gate(images(6, 8), 128)
    assert gate.components.shape == (4, FEATURES)
    assert np.isfinite(gate.distance(images(20, 9))).all()


def test_a_feature_that_never_changed_does_not_decide_alone() -> None:
    known = images(200, 10)
    known[:, 0] = 0
    probe = images(200, 11)
    probe[:, 0] = 1e-5
    assert np.median(fit_gate(known, DIRECTIONS).distance(probe)) < 1.5


def test_images_that_cannot_describe_anything_are_refused() -> None:
    for useless in (images(2, 1), np.ones((9, FEATURES), np.float32), images(9, 1)[:, :1]):
        with pytest.raises(ModelError, match="a scope gate needs"):
            fit_gate(useless, 3)


def test_an_embedding_of_another_network_is_an_error(gate: ScopeGate) -> None:
    with pytest.raises(ValueError, match="the scope gate takes 30 features"):
        gate.distance(np.zeros((2, 31), np.float32))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ({"mean": np.zeros(7, np.float32)}, "its mean has shape"),
        ({"scale": np.zeros(FEATURES, np.float32)}, "not positive"),
        ({"variance": np.full(DIRECTIONS, np.nan, np.float32)}, "not finite"),
        ({"components": np.zeros((0, FEATURES), np.float32)}, "its components have shape"),
        ({"residual": np.ones(1, np.float64)}, "not float32"),
        ({"alteration_unit": np.zeros(1, np.float32)}, "not positive"),
        ({"alteration_offsets": np.ones(1, np.float32)}, "its alteration_offsets has shape"),
        ({"surprise": np.ones(1, np.float32)}, "it has"),
    ],
)
def test_a_file_that_holds_no_gate_is_refused_by_name(
    gate: ScopeGate, spoil: dict[str, NDArray[np.float32]], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "scope.safetensors"
    gate.save(path)
    save_file({**load_file(path), **spoil}, path)
    with pytest.raises(ModelError, match=f"scope.safetensors holds no scope gate: .*{reason}"):
        ScopeGate.load(path, 1.0)


@pytest.mark.parametrize("content", [b"", b"nothing", b"\xff" * 100])
def test_a_damaged_file_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "scope.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"scope\.safetensors cannot be read"):
        ScopeGate.load(path, 1.0)
