"""Read a model folder strictly and say everything that is wrong with it; imports no torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from dicom_node.domain.findings import Code, ModelIdentity
from dicom_node.errors import ModelError
from dicom_node.score.manifest import (
    CodeEntry,
    FindingEntry,
    GateEntry,
    Golden,
    Inference,
    IntendedUse,
    Metadata,
)
from dicom_node.score.onnxfile import external_files
from dicom_node.score.preprocessing import canonical_digest

METADATA = "configs/metadata.json"
INFERENCE = "configs/inference.json"
GOLDEN = "configs/golden.json"
WEIGHTS = "models/weights.safetensors"
ONNX = "models/model.onnx"
SCOPE = "models/scope.safetensors"
CARD = "docs/README.md"
LICENSE = "docs/data_license.txt"
DIGESTED = (INFERENCE, GOLDEN, WEIGHTS, ONNX, CARD, LICENSE)
"""Files that every folder holds and whose SHA-256 the metadata must state; so must that of
`SCOPE` where it is there."""

_DECIDING = {"outputs", "calibration", "findings", "aggregation", "scope_gate"}

_Parsed = TypeVar("_Parsed", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model folder that holds together.

    Attributes
    ----------
    folder
        The model folder.
    metadata, inference, golden
        Its parsed configuration.
    """

    folder: Path
    metadata: Metadata
    inference: Inference
    golden: Golden

    @property
    def name(self) -> str:
        """Name of the model and of its folder."""
        return self.metadata.dicom_node.name

    @property
    def version(self) -> str:
        """Version as major.minor.patch."""
        return self.metadata.version

    @property
    def kind(self) -> str:
        """`cxr_image` or `ct_series`."""
        return self.metadata.dicom_node.kind

    @property
    def intended_use(self) -> IntendedUse:
        """What the model may be used on."""
        return self.metadata.dicom_node.intended_use

    @property
    def findings(self) -> tuple[FindingEntry, ...]:
        """What is reported, in order; the first is the main finding."""
        return self.metadata.dicom_node.findings

    @property
    def scope_gate(self) -> GateEntry | None:
        """How far from the training images an image may be; None if that is not asked."""
        return self.metadata.dicom_node.scope_gate

    @property
    def scope_path(self) -> Path:
        """What `ScopeGate.load` reads; there only with a `scope_gate`."""
        return self.folder / SCOPE

    @property
    def weights_path(self) -> Path:
        """Weights as safetensors."""
        return self.folder / WEIGHTS

    @property
    def onnx_path(self) -> Path:
        """The fp32 network with outputs `logits`, `activations` and `embedding`."""
        return self.folder / ONNX

    @property
    def identity(self) -> ModelIdentity:
        """What makes a score traceable to this folder."""
        section = self.metadata.dicom_node
        decision = section.model_dump(mode="json", include=_DECIDING)
        return ModelIdentity(
            name=section.name,
            version=self.version,
            manufacturer=section.manufacturer,
            weights_sha256=section.sha256[WEIGHTS],
            preprocessing_digest=self.inference.preprocessing.digest(),
            thresholds_digest=canonical_digest(decision),
        )

    def verify(self) -> tuple[str, ...]:
        """Compare every file with its SHA-256; returns what differs, empty if nothing does."""
        stated = self.metadata.dicom_node.sha256
        return tuple(
            f"{name} is not the file that {METADATA} states (SHA-256 differs)"
            for name in digested(self.folder)
            if name in stated
            and (self.folder / name).is_file()
            and file_sha256(self.folder / name) != stated[name]
        )


def digested(folder: Path) -> tuple[str, ...]:
    """Names of the files of a model folder whose SHA-256 the metadata must state."""
    return (*DIGESTED, SCOPE) if (folder / SCOPE).exists() else DIGESTED


def read_bundle(path: Path) -> Bundle:
    """Read and verify a model folder.

    Raises
    ------
    ModelError
        With every reason at once, separated by "; ".
    """
    if not path.is_dir():
        raise ModelError(f"model folder {path.name}: there is no such folder")
    reasons = [f"{name} is missing" for name in (METADATA, *DIGESTED) if not _is_inside(path, name)]
    metadata = _parse(path, METADATA, Metadata, reasons)
    inference = _parse(path, INFERENCE, Inference, reasons)
    golden = _parse(path, GOLDEN, Golden, reasons)
    if metadata is None or inference is None or golden is None:
        raise ModelError(f"model folder {path.name}: " + "; ".join(reasons))
    bundle = Bundle(path, metadata, inference, golden)
    reasons += _contradictions(bundle)
    reasons += bundle.verify()
    if reasons:
        raise ModelError(f"model folder {path.name}: " + "; ".join(reasons))
    return bundle


def find_bundles(models_dir: Path) -> tuple[tuple[Bundle, ...], dict[str, str]]:
    """Read every model folder in `models_dir`.

    Returns
    -------
    bundles, refused
        The usable ones by name, and folder name -> reasons for the others.
    """
    bundles: list[Bundle] = []
    refused: dict[str, str] = {}
    folders = sorted(models_dir.iterdir()) if models_dir.is_dir() else []
    for folder in folders:
        if not folder.is_dir() or folder.name.startswith((".", "_")):
            continue
        try:
            bundles.append(read_bundle(folder))
        except ModelError as error:
            refused[folder.name] = str(error)
    return tuple(bundles), refused


def code_of(entry: CodeEntry) -> Code:
    """The domain's value of a declared code."""
    return Code(entry.value, entry.scheme, entry.meaning)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_inside(folder: Path, name: str) -> bool:
    """Whether a file is there and no link leads out of the model folder."""
    target = folder / name
    return target.is_file() and target.resolve().is_relative_to(folder.resolve())


def _parse(folder: Path, name: str, model: type[_Parsed], reasons: list[str]) -> _Parsed | None:
    if not _is_inside(folder, name):
        return None
    try:
        return model.model_validate(json.loads((folder / name).read_bytes()))
    except ValidationError as error:
        for problem in error.errors():
            place = ".".join(str(part) for part in problem["loc"])
            said = problem["msg"].removeprefix("Value error, ")
            reasons.append(f"{name}: {place or 'content'}: {said}")
    except (ValueError, OSError, RecursionError) as error:
        reasons.append(f"{name} is not readable JSON ({type(error).__name__})")
    return None


def _contradictions(bundle: Bundle) -> list[str]:
    section, outputs = bundle.metadata.dicom_node, bundle.inference.network.outputs
    count = len(section.outputs)
    reasons = [f"{METADATA}: {reason}" for reason in section.contradictions()]
    reasons += [
        f"{METADATA} states no SHA-256 for {name}"
        for name in digested(bundle.folder)
        if name not in section.sha256
    ]
    if section.name != bundle.folder.name:
        reasons.append(f"the folder must be called {section.name}, as {METADATA} names the model")
    if outputs != count:
        reasons.append(f"{INFERENCE} has {outputs} outputs, {METADATA} names {count}")
    if any(len(image.probabilities) != count for image in bundle.golden.images):
        reasons.append(f"{GOLDEN} must expect {count} probabilities for each image")
    expected = "display" if section.kind == "cxr_image" else "hounsfield"
    if bundle.inference.preprocessing.input != expected:
        reasons.append(f"{INFERENCE}: a {section.kind} model takes {expected} input")
    return reasons + _gate_contradictions(bundle) + _foreign_tensors(bundle.folder)


def _gate_contradictions(bundle: Bundle) -> list[str]:
    if bundle.scope_gate is None:
        there = bundle.scope_path.exists()
        return [f"{METADATA} states no scope_gate for {SCOPE}"] if there else []
    there = _is_inside(bundle.folder, SCOPE)
    return [] if there else [f"{SCOPE} is missing, {METADATA} states a scope_gate"]


def _foreign_tensors(folder: Path) -> list[str]:
    """The network's tensors lie in the digested weights or in the ONNX file itself."""
    if not _is_inside(folder, ONNX):
        return []
    try:
        locations = external_files(folder / ONNX)
    except ModelError as error:
        return [f"{ONNX}: {error}"]
    allowed = Path(WEIGHTS).name
    return [
        f"{ONNX} reads tensors from {location!r}; only {allowed} beside it may hold them"
        for location in sorted(locations)
        if location != allowed
    ]
