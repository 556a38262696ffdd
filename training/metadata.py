"""What `configs/metadata.json` of an exported model folder says, and the digests that seal it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dicom_node.score.bundle import METADATA, digested, file_sha256
from dicom_node.score.manifest import FORMAT, Calibration
from dicom_node.score.transforms import Pipeline
from training.recipes.base import Finding, Recipe, Triplet

MANUFACTURER = "dicom_node project"
_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What export chose on pictures from which nothing was learned.

    Attributes
    ----------
    calibration
        From logits to probabilities.
    points
        Label of a finding -> its operating points.
    limit, alterations
        Of the scope gate; a word for each alteration that it knows.
    bfloat16_deviation
        Largest change of a validation probability under bfloat16.
    """

    calibration: Calibration
    points: dict[str, list[dict[str, Any]]]
    limit: float
    alterations: tuple[str, ...]
    bfloat16_deviation: float


def metadata(recipe: Recipe, name: str, version: str, chosen: Chosen) -> dict[str, Any]:
    """The content of `metadata.json`, without anything that is measured on the finished folder."""
    return {
        "schema": _SCHEMA,
        "version": version,
        "changelog": {version: f"Exported from recipe {recipe.name}."},
        "monai_version": installed("monai"),
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {},
        "task": recipe.title,
        "description": recipe.intended_use["statement"],
        "authors": MANUFACTURER,
        "copyright": "see docs/data_license.txt",
        "network_data_format": _data_format(recipe),
        "dicom_node": {
            "format": FORMAT,
            "name": name,
            "manufacturer": MANUFACTURER,
            "kind": recipe.kind,
            "intended_use": dict(recipe.intended_use),
            "labels": list(recipe.labels),
            "outputs": list(recipe.outputs),
            "calibration": chosen.calibration.model_dump(mode="json"),
            "findings": [_finding(recipe, entry, chosen) for entry in recipe.findings],
            "aggregation": dict(recipe.aggregation) if recipe.aggregation else None,
            "scope_gate": {
                "limit": chosen.limit,
                "refused_validation": 0.0,
                "alterations": list(chosen.alterations),
            },
            "bfloat16_deviation": chosen.bfloat16_deviation,
            "evidence": [],
            "limits": list(recipe.limits),
            "license": recipe.license,
            "sha256": {},
        },
    }


def seal(folder: Path, content: dict[str, Any]) -> None:
    """Write `metadata.json` with the digests of the folder's other files."""
    content["dicom_node"]["sha256"] = {
        name: file_sha256(folder / name) for name in digested(folder)
    }
    write_json(folder / METADATA, content)


def write_json(path: Path, value: Any) -> None:
    """Write indented ASCII JSON, without NaN."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False) + "\n")


def _finding(recipe: Recipe, entry: Finding, chosen: Chosen) -> dict[str, Any]:
    points = chosen.points[entry.label]
    wanted = recipe.operating_point
    (used,) = (point for point in points if point["name"] == wanted)
    return {
        "label": entry.label,
        "code": _code(entry.code),
        "site": _code(entry.site),
        "threshold": used["threshold"],
        "operating_points": points,
    }


def _code(triplet: Triplet) -> dict[str, str]:
    return dict(zip(("value", "scheme", "meaning"), triplet, strict=True))


def _data_format(recipe: Recipe) -> dict[str, Any]:
    declared = recipe.preprocessing
    pipeline = Pipeline(declared)
    ends = [pipeline.tensor(np.full((1, 32, 32), value, np.float32)) for value in (0.0, 1.0)]
    return {
        "inputs": {
            "images": {
                "type": "image",
                "format": "magnitude" if declared.input == "display" else "hounsfield",
                "num_channels": 3,
                "spatial_shape": [declared.rows, declared.columns],
                "dtype": "float32",
                "value_range": [round(float(np.min(ends)), 4), round(float(np.max(ends)), 4)],
                "is_patch_data": False,
                "channel_def": {"0": "gray", "1": "gray", "2": "gray"},
            }
        },
        "outputs": {
            "logits": {
                "type": "probabilities",
                "format": "classes",
                "num_channels": len(recipe.outputs),
                "spatial_shape": [],
                "dtype": "float32",
                "value_range": [],
                "is_patch_data": False,
                "channel_def": {str(i): label for i, label in enumerate(recipe.outputs)},
            }
        },
    }
