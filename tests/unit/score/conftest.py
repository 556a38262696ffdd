"""Model folders and DICOM files for the score room's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from dicom_node.paths import SHIPPED_MODELS
from dicom_node.score.bundle import Bundle, read_bundle
from dicom_node.score.engine import Classifier, open_classifier
from tests.unit.score.synthetic import Write, dataset_of


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a DICOM file with given stored values and attributes; returns its path."""

    def write_file(stored: NDArray[Any], *, name: str = "image.dcm", **attributes: Any) -> Path:
        path = tmp_path / name
        dataset_of(stored, **attributes).save_as(path, enforce_file_format=True)
        return path

    return write_file


@pytest.fixture(scope="session")
def cxr_bundle() -> Bundle:
    return read_bundle(SHIPPED_MODELS / "cxr-pneumonia")


@pytest.fixture(scope="session")
def ct_bundle() -> Bundle:
    return read_bundle(SHIPPED_MODELS / "ct-covid")


@pytest.fixture(scope="session")
def cxr(cxr_bundle: Bundle) -> Classifier:
    return open_classifier(cxr_bundle, device="cpu")


@pytest.fixture(scope="session")
def ct(ct_bundle: Bundle) -> Classifier:
    return open_classifier(ct_bundle, device="cpu")
