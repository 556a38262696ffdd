"""Write a trained network as a model folder: weights, ONNX, declarations, golden scores, card."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import monai
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession
from safetensors.torch import load_file
from torch import Tensor, nn

from dicom_node.score.bundle import (
    CARD,
    DIGESTED,
    GOLDEN,
    INFERENCE,
    LICENSE,
    METADATA,
    ONNX,
    WEIGHTS,
    file_sha256,
)
from dicom_node.score.golden import image_digest, synthetic_image
from dicom_node.score.networks import ARCHITECTURES
from dicom_node.score.transforms import Pipeline
from training.calibrate import Calibration, calibrate, operating_points
from training.card import card
from training.data import Examples, Splits
from training.evaluate import evaluate
from training.recipes.base import Recipe

VERSION = "0.1.0"
MANUFACTURER = "dicom_node project"
_GOLDEN_TOLERANCE = 1e-3
_GOLDEN_IMAGES = ((320, 288, 0.0), (256, 384, 1.3), (224, 224, 2.6))
_OPSET = 18


def export(recipe: Recipe, splits: Splits, trained: Path, folder: Path) -> dict[str, Any]:
    """Write the model folder and return its evaluation.

    Parameters
    ----------
    trained
        Folder with `weights.safetensors` of `training.fit`.
    folder
        The model folder to (re)write; its name must be the recipe's.
    """
    for part in ("configs", "models", "docs"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(trained / "weights.safetensors", folder / WEIGHTS)
    network = ARCHITECTURES[recipe.architecture](1)
    network.load_state_dict(load_file(folder / WEIGHTS))
    network.eval()
    _write_onnx(network, recipe, folder / ONNX)
    pipeline = Pipeline(recipe.preprocessing)
    logits, targets = _validation_logits(recipe, splits, pipeline, folder)
    calibration = calibrate(logits, targets)
    points = operating_points(calibration.apply(logits), targets)
    deviation = _bfloat16_deviation(network, splits, pipeline, calibration, logits)
    inference = {
        "network": {"architecture": recipe.architecture, "findings": 1},
        "preprocessing": recipe.preprocessing.model_dump(mode="json"),
    }
    _write_json(folder / INFERENCE, inference)
    _write_json(folder / GOLDEN, _golden(recipe, pipeline, calibration, folder))
    (folder / LICENSE).write_text(recipe.license_text)
    (folder / CARD).write_text("")
    metadata = _metadata(recipe, calibration, points, deviation)
    _seal(folder, metadata)
    report = evaluate(recipe, splits, folder)
    metadata["dicom_node"]["evidence"] = _evidence(recipe, report)
    (folder / CARD).write_text(card(recipe, metadata, report))
    _seal(folder, metadata)
    return report


def _write_onnx(network: nn.Module, recipe: Recipe, path: Path) -> None:
    size = (2, 3, recipe.preprocessing.rows, recipe.preprocessing.columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(size),),
            str(path),
            input_names=["images"],
            output_names=["logits", "activations"],
            dynamic_axes={name: {0: "batch"} for name in ("images", "logits", "activations")},
            opset_version=_OPSET,
            dynamo=False,
        )
    model = onnx.load(str(path))
    # Traces of the exporting machine's paths do not belong in a published file.
    for node in model.graph.node:
        node.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def _run_onnx(folder: Path, images: NDArray[np.float32]) -> NDArray[np.float64]:
    session = InferenceSession(str(folder / ONNX), providers=["CPUExecutionProvider"])
    logits = [session.run(["logits"], {"images": images[i : i + 16]})[0] for i in _steps(images)]
    return np.concatenate(logits).astype(np.float64)[:, 0]


def _steps(images: NDArray[np.float32]) -> range:
    return range(0, len(images), 16)


def _validation_logits(
    recipe: Recipe, splits: Splits, pipeline: Pipeline, folder: Path
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    del recipe
    images = np.stack([pipeline.tensor(picture.plane) for picture in splits.validation])
    targets = np.array([picture.target for picture in splits.validation])
    return _run_onnx(folder, images), targets


def _bfloat16_deviation(
    network: nn.Module,
    splits: Splits,
    pipeline: Pipeline,
    calibration: Calibration,
    logits: NDArray[np.float64],
) -> float:
    """Largest change of a validation probability under bfloat16 autocast."""
    loader = torch.utils.data.DataLoader(Examples(splits.validation, pipeline), batch_size=16)
    parts: list[Tensor] = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        parts.extend(network(batch["image"])[0][:, 0].float() for batch in loader)
    rounded = torch.cat(parts).numpy().astype(np.float64)
    change = np.abs(calibration.apply(rounded) - calibration.apply(logits)).max()
    return round(float(change), 4)


def _golden(
    recipe: Recipe, pipeline: Pipeline, calibration: Calibration, folder: Path
) -> dict[str, Any]:
    hounsfield = recipe.preprocessing.input == "hounsfield"
    entries = []
    for rows, columns, phase in _GOLDEN_IMAGES:
        image = synthetic_image(rows, columns, phase, hounsfield=hounsfield)
        tensor = pipeline.prepare(image).tensor[np.newaxis]
        probability = float(calibration.apply(_run_onnx(folder, tensor))[0])
        entries.append(
            {
                "rows": rows,
                "columns": columns,
                "phase": phase,
                "sha256": image_digest(image),
                "probabilities": [round(probability, 6)],
            }
        )
    return {"tolerance": _GOLDEN_TOLERANCE, "images": entries}


def _metadata(
    recipe: Recipe,
    calibration: Calibration,
    points: list[dict[str, float | str]],
    deviation: float,
) -> dict[str, Any]:
    labels, side = recipe.labels, [recipe.preprocessing.rows, recipe.preprocessing.columns]
    code, site = (
        dict(zip(("value", "scheme", "meaning"), triplet, strict=True))
        for triplet in (labels.code, labels.site)
    )
    return {
        "version": VERSION,
        "changelog": {VERSION: "First trained weights."},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {},
        "task": labels.title,
        "description": recipe.intended_use["statement"],
        "authors": MANUFACTURER,
        "copyright": "Apache License 2.0; see docs/data_license.txt",
        "network_data_format": {
            "inputs": {
                "images": {
                    "type": "image",
                    "format": "magnitude" if labels.kind == "cxr_image" else "hounsfield",
                    "num_channels": 3,
                    "spatial_shape": side,
                    "dtype": "float32",
                    "value_range": [-1.0, 1.0],
                    "is_patch_data": False,
                    "channel_def": {"0": "gray", "1": "gray", "2": "gray"},
                }
            },
            "outputs": {
                "logits": {
                    "type": "probabilities",
                    "format": "classes",
                    "num_channels": 1,
                    "spatial_shape": [],
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": False,
                    "channel_def": {"0": code["meaning"]},
                }
            },
        },
        "dicom_node": {
            "format": 1,
            "name": recipe.name,
            "manufacturer": MANUFACTURER,
            "kind": labels.kind,
            "intended_use": dict(recipe.intended_use),
            "findings": [
                {
                    "code": code,
                    "site": site,
                    "threshold": points[0]["threshold"],
                    "operating_points": points,
                    "temperature": calibration.temperature,
                    "bias": calibration.bias,
                }
            ],
            "aggregation": dict(recipe.aggregation) if recipe.aggregation else None,
            "bfloat16_deviation": deviation,
            "evidence": [],
            "limits": list(recipe.limits),
            "license": labels.license,
            "sha256": {},
        },
    }


def _evidence(recipe: Recipe, report: dict[str, Any]) -> list[dict[str, Any]]:
    notes = {
        "validation": "chose the epoch, the calibration and the thresholds",
        "test": "official test split; an earlier recipe was measured on it too, see limits",
        "test_strict": "test images of undoubted label, without groups or copies seen in training",
    }
    return [
        {
            "data_set": recipe.labels.data_title,
            "split": split,
            "n": report[split]["n"],
            "n_positive": report[split]["n_positive"],
            "metric": metric,
            "value": report[split][metric]["value"],
            "confidence_interval": report[split][metric]["confidence_interval"],
            "note": note,
        }
        for split, note in notes.items()
        for metric in ("auc", "accuracy", "sensitivity", "specificity", "brier")
    ]


def _seal(folder: Path, metadata: dict[str, Any]) -> None:
    metadata["dicom_node"]["sha256"] = {name: file_sha256(folder / name) for name in DIGESTED}
    _write_json(folder / METADATA, metadata)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=True) + "\n")
