"""Write a trained run as a model folder: weights, ONNX, gate, declarations, golden scores, card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from dicom_node.errors import BadInput
from dicom_node.score.bundle import (
    CARD,
    GOLDEN,
    INFERENCE,
    LICENSE,
    METADATA,
    ONNX,
    SCOPE,
    digested,
    read_bundle,
)
from dicom_node.score.calibration import calibrated
from dicom_node.score.engine import Raw
from dicom_node.score.golden import image_digest, synthetic_image
from dicom_node.score.manifest import Calibration
from dicom_node.score.networks import StagedNetwork, build
from dicom_node.score.runtime import onnxruntime
from dicom_node.score.scope import ScopeGate
from dicom_node.score.transforms import FloatArray, Pipeline
from training.calibrate import calibrate, operating_points
from training.card import card
from training.data import Picture, Splits
from training.domains import Unseen, left_out, unseen
from training.evidence import entries, measured
from training.explain import randomised_correlation
from training.gate import fit_scope, judge
from training.metadata import Chosen, metadata, seal, write_json
from training.names import check_name
from training.onnx_export import write_onnx
from training.others import Others
from training.recipes.base import Recipe
from training.runs import CONFIG, TIMING, WEIGHTS, read_json
from training.variations import also_varied

VERSION = "0.10.2"
EVIDENCE = "docs/evidence.json"
_GOLDEN_TOLERANCE = 1e-3
_GOLDEN_IMAGES = ((320, 288, 0.0), (256, 384, 1.3), (224, 224, 2.6))
_JUDGED = 200
"""Pictures of which outsiders are made; more cost minutes."""
_BATCH = 16


class ExportedNetwork:
    """The ONNX file of a model folder on the CPU, before the folder is sealed."""

    def __init__(self, folder: Path) -> None:
        library: Any = onnxruntime  # its classes are re-exported in a way that type checkers miss
        # By path: tensors of the file lie in the weights beside it.
        self._session = library.InferenceSession(
            str(folder / ONNX), providers=["CPUExecutionProvider"]
        )

    def run(self, images: FloatArray) -> Raw:
        """Score prepared images (N, 3, rows, columns) float32."""
        outputs: Any = self._session.run(list(Raw._fields), {"images": images})
        return Raw(*outputs)

    def embed(self, images: FloatArray) -> FloatArray:
        """Embeddings (N, D) of prepared images."""
        return self.run(images).embedding

    def logits(self, pipeline: Pipeline, pictures: Sequence[Picture]) -> NDArray[np.float64]:
        """Logits (N, K) of pictures."""
        tensors = [pipeline.tensor(picture.plane) for picture in pictures]
        parts = [
            self.run(np.stack(tensors[start : start + _BATCH])).logits
            for start in range(0, len(tensors), _BATCH)
        ]
        return np.concatenate(parts).astype(np.float64)


def export(
    recipe: Recipe,
    splits: Splits,
    run: Path,
    folder: Path,
    *,
    version: str = VERSION,
    others: Sequence[Others] = (),
    confounding: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the model folder and return its evidence; the last step makes it valid.

    Parameters
    ----------
    run
        Folder with `weights.safetensors` of `training.fit`.
    folder
        The model folder to (re)write; its name becomes the model's.
    others
        Pictures of other data sets, on which the gate is tried.
    confounding
        What `training.confounding` measured on the data set, for the card.

    Raises
    ------
    BadInput
        The folder's name cannot be a model's, there are no validation pictures of some class, or
        the run's weights do not belong to the recipe.
    """
    check_name(folder.name)
    network = _trained(recipe, run)
    workshop = folder.parent / f".{folder.name}.part"
    shutil.rmtree(workshop, ignore_errors=True)
    built = workshop / folder.name
    try:
        strange = unseen(left_out(recipe, splits, run))
        report = _build(recipe, splits, network, built, version, others, strange)
        config = _read(run, CONFIG) or {}
        report |= {
            "confounding": confounding,
            "training": _read(run, TIMING),
            **{name: config.get(name) for name in ("made_from", "started_from")},
        }
        _finish(recipe, built, report)
        read_bundle(built)
        _move(built, folder)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return report


def _trained(recipe: Recipe, run: Path) -> StagedNetwork:
    network = build(recipe.architecture, len(recipe.outputs))
    try:
        network.load_state_dict(load_file(run / WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise BadInput(
            f"run folder {run}: {WEIGHTS} is missing or not of {recipe.architecture} with "
            f"{len(recipe.outputs)} outputs; train with `python -m training fit` first"
        ) from error
    return network.eval()


def _build(
    recipe: Recipe,
    splits: Splits,
    network: StagedNetwork,
    folder: Path,
    version: str,
    others: Sequence[Others],
    strange: Sequence[Unseen],
) -> dict[str, Any]:
    """Write everything but card and evidence, and measure what was written."""
    for part in ("configs", "models", "docs"):
        (folder / part).mkdir(parents=True)
    declared = recipe.preprocessing
    write_onnx(network, declared.rows, declared.columns, folder)
    exported, pipeline = ExportedNetwork(folder), Pipeline(declared)
    calibration, points, deviation = _calibrated(recipe, splits, network, exported, strange)
    train, held_out = ([p.plane for p in part] for part in (splits.train, splits.validation))
    groups = len({picture.item.group or picture.item.path for picture in splits.validation})
    gate = fit_scope(exported.embed, pipeline, train, held_out, groups=groups, seed=recipe.seed)
    gate.save(folder / SCOPE)
    some = _some(splits.test or splits.validation)
    # What was written is judged, not what was meant.
    gate = ScopeGate.load(folder / SCOPE, gate.limit, gate.alterations.words)
    judged = judge(
        gate,
        exported.embed,
        pipeline,
        [picture.plane for picture in some],
        name=_name_of(some, splits),
        others=others,
        seed=recipe.seed,
    )
    write_json(
        folder / INFERENCE,
        {
            "network": {"architecture": recipe.architecture, "outputs": len(recipe.outputs)},
            "preprocessing": declared.model_dump(mode="json"),
        },
    )
    write_json(folder / GOLDEN, _golden(pipeline, exported, calibration))
    (folder / LICENSE).write_text(recipe.license_text)
    (folder / CARD).write_text("")
    chosen = Chosen(calibration, points, gate.limit, gate.alterations.words, deviation)
    content = metadata(recipe, folder.name, version, chosen)
    seal(folder, content)
    report = measured(folder, recipe, splits)
    report["map_correlation_randomised"] = _sanity(recipe, splits, network)
    threshold = report["threshold"]
    report["domains"] = {each.name: each.described(recipe, threshold) for each in strange}
    return {**report, "scope_gate": judged, "metadata": content}


def _some(pictures: Sequence[Picture]) -> Sequence[Picture]:
    """Every second, third... picture, so that all labels are among them."""
    return pictures[:: max(1, len(pictures) // _JUDGED)][:_JUDGED]


def _name_of(some: Sequence[Picture], splits: Splits) -> str:
    name, every = (
        ("official test split", splits.test) if splits.test else ("validation", splits.validation)
    )
    return name if len(some) == len(every) else f"{len(some)} of the {name}"


def _calibrated(
    recipe: Recipe,
    splits: Splits,
    network: StagedNetwork,
    exported: ExportedNetwork,
    strange: Sequence[Unseen],
) -> tuple[Calibration, dict[str, list[dict[str, Any]]], float]:
    """Calibration, operating points by finding, and the deviation under bfloat16."""
    pipeline = Pipeline(recipe.preprocessing)
    if not splits.validation:
        raise BadInput(f"{recipe.name}: no validation pictures to calibrate on")
    pictures = also_varied(splits.validation, recipe.seed)
    targets = np.array([picture.target for picture in pictures])
    logits = exported.logits(pipeline, pictures)
    calibration = calibrate(logits, targets, recipe.function)
    outputs = calibrated(logits, calibration)
    said = np.concatenate([each.outputs for each in strange]) if strange else outputs
    true = np.concatenate([each.targets for each in strange]) if strange else targets
    points = {
        entry.label: operating_points(
            said[:, recipe.outputs.index(entry.label)], true == recipe.labels.index(entry.label)
        )
        for entry in recipe.findings
    }
    rounded = calibrated(_bfloat16_logits(network, pipeline, pictures), calibration)
    return calibration, points, round(float(np.abs(rounded - outputs).max()), 4)


def _bfloat16_logits(
    network: StagedNetwork, pipeline: Pipeline, pictures: Sequence[Picture]
) -> NDArray[np.float64]:
    parts = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(pictures), _BATCH):
            some = pictures[start : start + _BATCH]
            images = np.stack([pipeline.tensor(picture.plane) for picture in some])
            parts.append(network(torch.from_numpy(images)).logits.double().numpy())
    return np.concatenate(parts)


def _sanity(recipe: Recipe, splits: Splits, network: StagedNetwork) -> float:
    """Rank correlation of the main finding's maps with those of a network of random weights."""
    pipeline = Pipeline(recipe.preprocessing)
    images = np.stack([pipeline.tensor(p.plane) for p in splits.validation[:_BATCH]])
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        randomised = build(recipe.architecture, len(recipe.outputs))
    output = recipe.outputs.index(recipe.positive)
    return round(randomised_correlation(network, randomised, images, output), 4)


def _golden(
    pipeline: Pipeline, exported: ExportedNetwork, calibration: Calibration
) -> dict[str, Any]:
    hounsfield = pipeline.declaration.input == "hounsfield"
    images = []
    for rows, columns, phase in _GOLDEN_IMAGES:
        image = synthetic_image(rows, columns, phase, hounsfield=hounsfield)
        raw = exported.run(pipeline.prepare(image).tensor[np.newaxis])
        outputs = calibrated(raw.logits, calibration)[0]
        images.append(
            {
                "rows": rows,
                "columns": columns,
                "phase": phase,
                "sha256": image_digest(image),
                "probabilities": [round(float(value), 6) for value in outputs],
            }
        )
    return {"tolerance": _GOLDEN_TOLERANCE, "images": images}


def _finish(recipe: Recipe, folder: Path, report: dict[str, Any]) -> None:
    """Write evidence and card, and seal the folder again."""
    content = report.pop("metadata")
    refused = report["splits"]["validation"]["refused_fraction"]
    content["dicom_node"]["scope_gate"]["refused_validation"] = refused
    content["dicom_node"]["evidence"] = entries(recipe, report)
    write_json(folder / EVIDENCE, report)
    (folder / CARD).write_text(card(recipe, content, report))
    seal(folder, content)


def _read(run: Path, name: str) -> dict[str, Any] | None:
    content: dict[str, Any] | None = read_json(run, name) if (run / name).is_file() else None
    return content


def _move(built: Path, folder: Path) -> None:
    """Put the files in place; until the last one, `metadata.json`, digests do not agree."""
    for name in (*digested(built), EVIDENCE, METADATA):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (built / name).replace(folder / name)
