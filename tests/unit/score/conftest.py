"""Model folders and DICOM files for the score room's tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dicom_node.score.alterations import Alterations
from dicom_node.score.bundle import Bundle, read_bundle
from dicom_node.score.engine import Classifier, OnnxRuntime, open_classifier
from dicom_node.score.scope import ScopeGate, fit_gate
from tests.unit.score.folders import CT, CXR, copy_model
from tests.unit.score.synthetic import Write, chest_like, dataset_of

GATE_IMAGES = 24


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a DICOM file with given stored values and attributes; returns its path."""

    def write_file(stored: NDArray[Any], *, name: str = "image.dcm", **attributes: Any) -> Path:
        path = tmp_path / name
        dataset_of(stored, **attributes).save_as(path, enforce_file_format=True)
        return path

    return write_file


@pytest.fixture(scope="session")
def cxr_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped radiograph model without its scope gate: test pictures are drawings."""
    return read_bundle(copy_model(CXR, tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="session")
def ct_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped CT model without its scope gate."""
    return read_bundle(copy_model(CT, tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="session")
def cxr(cxr_bundle: Bundle) -> Classifier:
    return open_classifier(cxr_bundle, device="cpu")


@pytest.fixture(scope="session")
def ct(ct_bundle: Bundle) -> Classifier:
    return open_classifier(ct_bundle, device="cpu")


@pytest.fixture(scope="session")
def drawn_gate(cxr: Classifier) -> ScopeGate:
    """A gate that takes `chest_like` pictures, a little moved, for what the model knows.

    It knows them inverted, too.
    """
    generator = np.random.default_rng(5)
    tensors = []
    for _ in range(2 * GATE_IMAGES):
        moved = np.roll(chest_like(), generator.integers(-3, 4, 2), axis=(0, 1))
        tensors.append(cxr.pipeline.prepare((moved / 255).astype(np.float32)).tensor)
    inverted = cxr.pipeline.prepare((1 - chest_like() / 255).astype(np.float32)).tensor
    embedding = OnnxRuntime(cxr.bundle, 1).run(np.stack([*tensors, inverted])).embedding
    gate = fit_gate(embedding[:GATE_IMAGES], 4)
    limit = 2 * float(gate.distance(embedding[GATE_IMAGES:-1]).max())
    (direction,) = gate.standardised(embedding[-1:])
    weights = (10 / (direction @ direction) * direction).astype(np.float32)[np.newaxis]
    # Even odds half the way from a picture to its inverse.
    alterations = Alterations(("inverted",), weights, np.array([-5.0], np.float32), 1 / limit)
    return replace(gate, alterations=alterations, limit=limit)


@pytest.fixture(scope="session")
def gated_cxr(drawn_gate: ScopeGate, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """The radiograph model with a gate that takes `chest_like` pictures and little else."""
    folder = copy_model(CXR, tmp_path_factory.mktemp("gated"), drawn_gate)
    return open_classifier(read_bundle(folder), device="cpu")
