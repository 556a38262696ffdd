"""Engines agree with one another and with the golden scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dicom_node.errors import ModelError
from dicom_node.score.alterations import Alterations
from dicom_node.score.bundle import Bundle, read_bundle
from dicom_node.score.calibration import calibrated
from dicom_node.score.engine import (
    BFLOAT16_TOLERANCE,
    FLOAT32_TOLERANCE,
    Classifier,
    OnnxRuntime,
    Raw,
    TorchRuntime,
    open_classifier,
)
from dicom_node.score.manifest import Calibration
from dicom_node.score.scope import ScopeGate
from tests.unit.score.folders import CXR, copy_model
from tests.unit.score.synthetic import chest_like


def random_batch(bundle: Bundle, count: int) -> np.ndarray:
    size = bundle.inference.preprocessing
    generator = np.random.default_rng(7)
    return generator.uniform(-1, 1, (count, 3, size.rows, size.columns)).astype(np.float32)


@pytest.fixture(params=["cxr_bundle", "ct_bundle"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    found: Bundle = request.getfixturevalue(request.param)
    return found


def test_onnx_runtime_and_torch_agree(bundle: Bundle) -> None:
    batch = random_batch(bundle, 3)
    onnx = Classifier(bundle, OnnxRuntime(bundle, 0)).predict(batch)
    torch_ = Classifier(bundle, TorchRuntime(bundle, "cpu")).predict(batch)
    np.testing.assert_allclose(onnx.probabilities, torch_.probabilities, atol=FLOAT32_TOLERANCE)
    np.testing.assert_allclose(onnx.maps, torch_.maps, atol=1e-3)
    np.testing.assert_allclose(onnx.outputs, torch_.outputs, atol=FLOAT32_TOLERANCE)
    assert onnx.maps.shape[:2] == onnx.probabilities.shape == (3, len(bundle.findings))
    assert onnx.outputs.shape == (3, bundle.inference.network.outputs)
    assert onnx.maps.min() >= 0
    assert onnx.maps.max() <= 1


def test_golden_scores_hold_on_both_engines(bundle: Bundle) -> None:
    for runtime in (OnnxRuntime(bundle, 1), TorchRuntime(bundle, "cpu")):
        assert Classifier(bundle, runtime).golden_deviation() <= bundle.golden.tolerance


def test_scores_do_not_depend_on_the_batch(bundle: Bundle) -> None:
    batch = random_batch(bundle, 5)
    runtime = OnnxRuntime(bundle, 0)
    whole = Classifier(bundle, runtime, batch_size=5).predict(batch).probabilities
    parts = Classifier(bundle, runtime, batch_size=2).predict(batch).probabilities
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_a_golden_deviation_is_refused(cxr_bundle: Bundle) -> None:
    entry = cxr_bundle.golden.images[0]
    other = tuple((value + 0.5) % 1 for value in entry.probabilities)
    wrong = entry.model_copy(update={"probabilities": other})
    golden = cxr_bundle.golden.model_copy(update={"images": (wrong,)})
    spoiled = Bundle(cxr_bundle.folder, cxr_bundle.metadata, cxr_bundle.inference, golden)
    with pytest.raises(ModelError, match="golden scores differ"):
        open_classifier(spoiled, device="cpu")


def test_without_a_gate_every_distance_is_zero(bundle: Bundle) -> None:
    scores = Classifier(bundle, OnnxRuntime(bundle, 0)).predict(random_batch(bundle, 2))
    np.testing.assert_array_equal(scores.distance, [0, 0])
    assert scores.looks == ("", "")


def test_what_an_image_looks_like_stays_with_it(gated_cxr: Classifier) -> None:
    shown = (chest_like() / 255).astype(np.float32)
    tensors = [gated_cxr.pipeline.prepare(each).tensor for each in (shown, 1 - shown)]
    scores = gated_cxr.predict(tensors)
    assert scores.looks == ("", "inverted")
    assert scores.take([1]).looks == ("inverted",)


def test_a_gate_gives_the_same_distance_on_both_engines(gated_cxr: Classifier) -> None:
    bundle = gated_cxr.bundle
    batch = random_batch(bundle, 2)
    onnx, torch_ = (
        Classifier(bundle, runtime).predict(batch).distance
        for runtime in (OnnxRuntime(bundle, 0), TorchRuntime(bundle, "cpu"))
    )
    np.testing.assert_allclose(onnx, torch_, rtol=1e-3)
    assert (onnx > 1).all()


def test_a_gate_of_another_network_is_refused(drawn_gate: ScopeGate, tmp_path: Path) -> None:
    narrow = replace(
        drawn_gate,
        mean=drawn_gate.mean[:-1],
        scale=drawn_gate.scale[:-1],
        components=drawn_gate.components[:, :-1].copy(),
        alterations=Alterations.none(len(drawn_gate.mean) - 1),
    )
    bundle = read_bundle(copy_model(CXR, tmp_path, narrow))
    with pytest.raises(ModelError, match=r"scope\.safetensors does not belong to the network"):
        open_classifier(bundle, device="cpu")


class TwoImages:
    """A network of three outputs, as a runtime."""

    description = "fixed"

    def run(self, batch: np.ndarray) -> Raw:
        logits = np.array([[0.0, 1.0, 3.0], [2.0, 0.0, -2.0]], np.float32)[: len(batch)]
        activations = np.zeros((len(batch), 3, 2, 2), np.float32)
        activations[:, 0, 0, 0], activations[:, 1, 0, 1], activations[:, 2, 1, 1] = 1, 2, 3
        return Raw(logits, activations, np.zeros((len(batch), 4), np.float32))


@pytest.mark.parametrize("function", ["sigmoid", "softmax"])
def test_findings_are_picked_by_label_from_calibrated_outputs(
    function: str, cxr_bundle: Bundle
) -> None:
    section = cxr_bundle.metadata.dicom_node
    first = section.findings[0]
    bias = (0.5, 0.0, -0.5)
    changed = section.model_copy(
        update={
            "labels": ("a", "b", "c"),
            "outputs": ("a", "b", "c"),
            "calibration": Calibration(function=function, temperature=2.0, bias=bias),
            "findings": tuple(first.model_copy(update={"label": label}) for label in ("c", "a")),
        }
    )
    metadata = cxr_bundle.metadata.model_copy(update={"dicom_node": changed})
    classifier = Classifier(replace(cxr_bundle, metadata=metadata), TwoImages())
    scores = classifier.predict(random_batch(cxr_bundle, 2))
    scaled = np.array([[0.0, 1.0, 3.0], [2.0, 0.0, -2.0]]) / 2 + np.array(bias)
    expected = 1 / (1 + np.exp(-scaled))
    if function == "softmax":
        expected = np.exp(scaled) / np.exp(scaled).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores.outputs, expected)
    np.testing.assert_allclose(scores.probabilities, expected[:, [2, 0]])
    assert [np.argmax(map_) for map_ in scores.maps[0]] == [3, 0]
    second = scores.take([1])
    np.testing.assert_allclose(second.outputs, expected[1:])
    np.testing.assert_allclose(second.probabilities, expected[1:, [2, 0]])


def test_softmax_of_large_logits_is_finite() -> None:
    calibration = Calibration(function="softmax", temperature=1.0, bias=(0.0, 0.0))
    logits = np.array([[1e4, -1e4]], np.float32)
    np.testing.assert_allclose(calibrated(logits, calibration), [[1.0, 0.0]])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_absent_is_said(cxr_bundle: Bundle) -> None:
    with pytest.raises(ModelError, match="no CUDA device is usable"):
        open_classifier(cxr_bundle, device="cuda")
    assert "cpu fp32" in open_classifier(cxr_bundle, device="auto").engine


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_cpu_scores(bundle: Bundle) -> None:
    batch = random_batch(bundle, 4)
    expected = Classifier(bundle, OnnxRuntime(bundle, 0)).predict(batch).probabilities
    exact = Classifier(bundle, TorchRuntime(bundle, "cuda")).predict(batch).probabilities
    np.testing.assert_allclose(exact, expected, atol=FLOAT32_TOLERANCE)
    chosen = open_classifier(bundle, device="cuda").predict(batch).probabilities
    np.testing.assert_allclose(chosen, expected, atol=BFLOAT16_TOLERANCE)
