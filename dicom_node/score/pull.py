"""Make a model folder of a published network: fetch or take its file, check, convert, verify."""

from __future__ import annotations

import json
import shutil
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from torch import Tensor

from dicom_node.errors import ModelError
from dicom_node.score import xrv
from dicom_node.score.bundle import (
    CARD,
    GOLDEN,
    INFERENCE,
    LICENSE,
    METADATA,
    digested,
    file_sha256,
    read_bundle,
)
from dicom_node.score.checkpoint import read_tensors
from dicom_node.score.engine import open_classifier
from dicom_node.score.golden import image_digest, synthetic_image
from dicom_node.score.networks import StagedNetwork, build
from dicom_node.score.onnx_writer import write_onnx
from dicom_node.score.transforms import Pipeline

NAMES = (xrv.NAME,)
"""Models that can be pulled."""

_TIMEOUT_SECONDS = 60
_THRESHOLDS = "op_threshs"
_GOLDEN_TOLERANCE = 1e-3
_GOLDEN_IMAGES = ((320, 288, 0.0), (256, 384, 1.3), (224, 224, 2.6))


def pull(
    name: str, models_dir: Path, *, file: Path | None = None, sha256: str | None = None
) -> Path:
    """Make the model folder `models_dir/name` of a published network.

    Parameters
    ----------
    file
        The published file where this machine cannot fetch it: a state dict or a pickled module.
    sha256
        What the file must have, hexadecimal. Without it the file is compared with nothing: its
        authors publish no digest that is known here. The folder says which was the case.

    Returns
    -------
    folder
        Complete and verified; nothing is left where something fails.

    Raises
    ------
    ModelError
        The name is not known, the folder is there already, or the file is not to be had, not the
        one that was asked for or not this network.
    """
    if name not in NAMES:
        raise ModelError(f"no model {name!r} can be pulled; known are {', '.join(NAMES)}")
    target = models_dir / name
    if target.exists():
        raise ModelError(f"{target} is there already; remove it to pull the model again")
    models_dir.mkdir(parents=True, exist_ok=True)
    # Hidden from the node until it is complete, and on the same disk, so that it appears at once.
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=models_dir) as staging:
        if file is None:
            file = _fetch(xrv.URL, Path(staging))
        found = _checked_digest(file, sha256)
        folder = Path(staging) / name
        _convert(file, found, folder, compared=sha256 is not None)
        open_classifier(read_bundle(folder), device="cpu")
        folder.rename(target)
    return target


def source_of(folder: Path) -> str:
    """From which file a pulled model was made, and what is known of its SHA-256; one line."""
    source = json.loads((folder / METADATA).read_bytes())["weights_source"]
    return f"made from {source['file']}. {source['digest']}"


def _fetch(url: str, folder: Path) -> Path:
    """Download; an absent network is said with the way around it."""
    path = folder / url.rsplit("/", 1)[-1]
    try:
        # The address is a constant of ours, over HTTPS.
        with (
            urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer,
            path.open("wb") as file,
        ):
            shutil.copyfileobj(answer, file)
    except OSError as error:
        raise ModelError(
            f"{url} cannot be fetched ({error}); fetch it on a machine that can, copy it here and "
            f"say `dicom-node models pull {xrv.NAME} --file PATH`"
        ) from error
    return path


def _checked_digest(file: Path, expected: str | None) -> str:
    if not file.is_file():
        raise ModelError(f"{file} is not there; --file takes the file published at {xrv.URL}")
    found = file_sha256(file)
    if expected is not None and found != expected.strip().lower():
        raise ModelError(f"{file.name} has SHA-256 {found}, not {expected}: not the file asked for")
    return found


def _convert(file: Path, sha256: str, folder: Path, *, compared: bool) -> None:
    tensors = read_tensors(file)
    thresholds = _thresholds(tensors.pop(_THRESHOLDS, None))
    network = _network(tensors, file.name)
    for part in ("configs", "docs"):
        (folder / part).mkdir(parents=True)
    write_onnx(network, xrv.SIDE, xrv.SIDE, folder)
    preprocessing = xrv.preprocessing()
    inference = {
        "network": {"architecture": xrv.ARCHITECTURE, "outputs": len(xrv.LABELS)},
        "preprocessing": preprocessing.model_dump(mode="json"),
    }
    _write_json(folder / INFERENCE, inference)
    _write_json(folder / GOLDEN, _golden(network, Pipeline(preprocessing)))
    (folder / CARD).write_text(xrv.card(file.name, sha256, compared=compared), encoding="utf-8")
    (folder / LICENSE).write_text(xrv.LICENSE_TEXT, encoding="utf-8")
    origin = xrv.origin(file.name, sha256, compared=compared)
    metadata = {**_metadata(thresholds), "weights_source": origin}
    metadata["dicom_node"]["sha256"] = {
        part: file_sha256(folder / part) for part in digested(folder)
    }
    _write_json(folder / METADATA, metadata)


def _network(tensors: dict[str, Tensor], name: str) -> StagedNetwork:
    network = build(xrv.ARCHITECTURE, len(xrv.LABELS)).eval()
    wanted = {key: value.shape for key, value in network.state_dict().items()}
    # PyTorch before 0.4 counted no batches; the count scores nothing.
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}
    wrong = sorted(
        key
        for key in wanted.keys() | tensors.keys()
        if key not in counters - tensors.keys()
        and (key not in wanted or key not in tensors or tensors[key].shape != wanted[key])
    )
    if wrong:
        raise ModelError(
            f"{name} does not hold {xrv.ARCHITECTURE} with {len(xrv.LABELS)} outputs: "
            f"{len(wrong)} tensors are missing, unknown or of another shape, first {wrong[0]}"
        )
    if not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise ModelError(f"{name} holds values that are no numbers")
    network.load_state_dict(tensors, strict=False)
    return network


def _thresholds(found: Tensor | None) -> dict[str, float]:
    """Thresholds of the checkpoint that a probability can have; NaN stands for none."""
    if found is None or found.numel() != len(xrv.LABELS):
        return {}
    pairs = zip(xrv.LABELS, found.flatten().tolist(), strict=True)
    return {label: value for label, value in pairs if 0 < value < 1}


def _golden(network: StagedNetwork, pipeline: Pipeline) -> dict[str, Any]:
    entries = []
    for rows, columns, phase in _GOLDEN_IMAGES:
        image = synthetic_image(rows, columns, phase, hounsfield=False)
        tensor = torch.from_numpy(pipeline.prepare(image).tensor)[None]
        with torch.inference_mode():
            probabilities = torch.sigmoid(network(tensor).logits[0].double()).tolist()
        entries.append(
            {
                "rows": rows,
                "columns": columns,
                "phase": phase,
                "sha256": image_digest(image),
                "probabilities": [round(value, 6) for value in probabilities],
            }
        )
    return {"tolerance": _GOLDEN_TOLERANCE, "images": entries}


def _metadata(thresholds: dict[str, float]) -> dict[str, Any]:
    image = {
        "type": "image",
        "format": "magnitude",
        "num_channels": 3,
        "spatial_shape": [xrv.SIDE, xrv.SIDE],
        "dtype": "float32",
        "value_range": [-1024.0, 1024.0],
        "is_patch_data": False,
        "channel_def": {"0": "gray", "1": "gray", "2": "gray"},
    }
    logits = {
        "type": "probabilities",
        "format": "classes",
        "num_channels": len(xrv.LABELS),
        "spatial_shape": [],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": {str(index): label for index, label in enumerate(xrv.LABELS)},
    }
    section = xrv.node_section(thresholds)
    return {
        "version": xrv.VERSION,
        "changelog": {xrv.VERSION: "Converted from the published weights."},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {},
        "task": "18 findings on chest radiographs of adults",
        "description": section["intended_use"]["statement"],
        "authors": xrv.MANUFACTURER,
        "copyright": "Apache License 2.0; see docs/data_license.txt",
        "network_data_format": {"inputs": {"images": image}, "outputs": {"logits": logits}},
        "dicom_node": section,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=True) + "\n")
