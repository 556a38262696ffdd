"""What a shipped model begins at did not learn from the test films that judge it."""

from __future__ import annotations

import csv
import io
import os
import tarfile
from pathlib import Path

import pytest

from training.data import data_dir
from training.recipes import RECIPES


def manifest(name: str) -> list[dict[str, str]]:
    """The rows of a published set."""
    path: Path = data_dir() / f"{name}.tar"
    if not path.is_file():
        if os.environ.get("CI"):
            pytest.fail(f"{path} is missing")
        pytest.skip(f"{path} is missing; set DICOM_NODE_DATA")
    with tarfile.open(path) as archive:
        member = archive.extractfile("manifest.csv")
        assert member is not None
        return list(csv.DictReader(io.TextIOWrapper(member, "utf-8")))


def test_what_cxr_covid3_begins_at_has_not_seen_its_test_films() -> None:
    start = RECIPES[str(RECIPES["cxr_covid3"].init_from)]
    patients = {
        row["patient_key"]
        for row in manifest("covid3_cxr")
        if row["split"] == "test" and row["kermany_split"] == "train"
    }
    assert len(patients) == 16
    films = [row for row in manifest(start.data_set) if row["split"] == "train"]
    assert {row["patient_key"] for row in films if not start.keep(row)} == patients
