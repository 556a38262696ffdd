"""Someone's own DICOM files and a CSV of labels end in a model that the running node serves."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydicom import dcmread

from tests.e2e.harness import Node, StoreScp, storescu
from tests.e2e.studies import REPOSITORY, radiograph, small_radiograph

pytestmark = [pytest.mark.dcmtk, pytest.mark.slow, pytest.mark.timeout(1200)]

PATIENTS = 24
MODEL = "our_pneumonia"
TINY = ("epochs=2", "architecture=FiveBlockCNN", "weights=none", "side=64", "batch_size=4")


def labelled_films(folder: Path) -> Path:
    """DICOM radiographs, half of them with a bright patch, and the CSV that says which."""
    folder.mkdir()
    generator = np.random.default_rng(7)
    table = folder / "labels.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        for number in range(PATIENTS):
            film = small_radiograph(f"own{number}")
            pixels = film.pixel_array.astype(np.float64) * generator.uniform(0.8, 1.0)
            if number % 2:
                pixels[150:300, 60:200] *= 0.3
            film.PixelData = pixels.astype(film.pixel_array.dtype).tobytes()
            film.PatientID = f"own-{number}"
            film.save_as(folder / f"{number}.dcm")
            writer.writerow([f"{number}.dcm", ("normal", "pneumonia")[number % 2]])
    return table


def training(*words: str) -> str:
    """Run `python -m training WORDS` and give what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "training", *words],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_fit_and_export_on_own_dicom_make_a_model_that_the_node_serves(
    make_node: Callable[..., Node], archive: StoreScp, tmp_path: Path
) -> None:
    table = labelled_films(tmp_path / "films")
    runs, models = str(tmp_path / "runs"), tmp_path / "models"
    settings = [word for pair in TINY for word in ("--set", pair)]

    own = ("--data", str(table), "--runs", runs)
    training("fit", "cxr_pneumonia", *own, "--name", MODEL, *settings)
    training("export", MODEL, *own, "--models", str(models))
    report: dict[str, Any] = json.loads(
        training("evaluate", str(models / MODEL), str(table), "--split", "all", "--json")
    )

    assert report["n"] == PATIENTS
    assert report["accepted"]["n"] == PATIENTS - report["refused"]
    routes = tmp_path / "routes.yaml"
    rule = {
        "name": "ours",
        "model": MODEL,
        "input": "images",
        "when": [{"field": "Modality", "any_of": ["CR", "DX"]}],
        "out_of_scope": "mark",
    }
    routes.write_text(yaml.safe_dump({"routes": [rule]}))
    node = make_node(send_to=[archive.peer], models_dir=str(models), routes_file=str(routes))
    node.command("models", "verify", str(models / MODEL))
    film = radiograph(tmp_path, "served")
    storescu(node.port, [film])
    (job,) = node.wait_for_jobs(1, frozenset({"delivered", "parked", "failed"}))

    assert (job["state"], job["model"]) == ("delivered", MODEL)
    (sr,) = [path for path in archive.files() if dcmread(path).Modality == "SR"]
    assert MODEL.encode() in sr.read_bytes()
