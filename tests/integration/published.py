"""The published sets, which a test asks for by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from training.data import data_dir


def published(name: str) -> Path:
    """A file or folder of them; without it the test is skipped by hand and fails in CI."""
    path = data_dir() / name
    if not path.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{path} is missing")
        pytest.skip(f"{path} is missing; set DICOM_NODE_DATA")
    return path
