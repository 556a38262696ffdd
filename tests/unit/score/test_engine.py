"""Engines agree with one another and with the golden scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dicom_node.errors import ModelError
from dicom_node.score.bundle import Bundle
from dicom_node.score.engine import (
    BFLOAT16_TOLERANCE,
    FLOAT32_TOLERANCE,
    Classifier,
    OnnxRuntime,
    TorchRuntime,
    open_classifier,
)


def random_batch(count: int) -> np.ndarray:
    generator = np.random.default_rng(7)
    return generator.uniform(-1, 1, (count, 3, 224, 224)).astype(np.float32)


@pytest.fixture(params=["cxr_bundle", "ct_bundle"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    found: Bundle = request.getfixturevalue(request.param)
    return found


def test_onnx_runtime_and_torch_agree(bundle: Bundle) -> None:
    batch = random_batch(3)
    onnx = Classifier(bundle, OnnxRuntime(bundle, 0)).predict(batch)
    torch_ = Classifier(bundle, TorchRuntime(bundle, "cpu")).predict(batch)
    np.testing.assert_allclose(onnx.probabilities, torch_.probabilities, atol=FLOAT32_TOLERANCE)
    np.testing.assert_allclose(onnx.maps, torch_.maps, atol=1e-3)
    assert onnx.maps.shape == (3, 1, 7, 7)
    assert onnx.maps.min() >= 0
    assert onnx.maps.max() <= 1


def test_golden_scores_hold_on_both_engines(bundle: Bundle) -> None:
    for runtime in (OnnxRuntime(bundle, 1), TorchRuntime(bundle, "cpu")):
        assert Classifier(bundle, runtime).golden_deviation() <= bundle.golden.tolerance


def test_scores_do_not_depend_on_the_batch(bundle: Bundle) -> None:
    batch = random_batch(5)
    runtime = OnnxRuntime(bundle, 0)
    whole = Classifier(bundle, runtime, batch_size=5).predict(batch).probabilities
    parts = Classifier(bundle, runtime, batch_size=2).predict(batch).probabilities
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_a_golden_deviation_is_refused(cxr_bundle: Bundle) -> None:
    entry = cxr_bundle.golden.images[0]
    wrong = entry.model_copy(update={"probabilities": (0.5 * entry.probabilities[0] + 0.4,)})
    golden = cxr_bundle.golden.model_copy(update={"images": (wrong,)})
    spoiled = Bundle(cxr_bundle.folder, cxr_bundle.metadata, cxr_bundle.inference, golden)
    with pytest.raises(ModelError, match="golden scores differ"):
        open_classifier(spoiled, device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_absent_is_said(cxr_bundle: Bundle) -> None:
    with pytest.raises(ModelError, match="no CUDA device is usable"):
        open_classifier(cxr_bundle, device="cuda")
    assert "cpu fp32" in open_classifier(cxr_bundle, device="auto").engine


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_cpu_scores(bundle: Bundle) -> None:
    batch = random_batch(4)
    expected = Classifier(bundle, OnnxRuntime(bundle, 0)).predict(batch).probabilities
    exact = Classifier(bundle, TorchRuntime(bundle, "cuda")).predict(batch).probabilities
    np.testing.assert_allclose(exact, expected, atol=FLOAT32_TOLERANCE)
    chosen = open_classifier(bundle, device="cuda").predict(batch).probabilities
    np.testing.assert_allclose(chosen, expected, atol=BFLOAT16_TOLERANCE)
