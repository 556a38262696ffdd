"""Model folders to spoil: copies of the shipped ones, with the scope gate that a test wants."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from dicom_node.paths import SHIPPED_MODELS
from dicom_node.score.bundle import METADATA, SCOPE, digested, file_sha256
from dicom_node.score.scope import ScopeGate

CXR, CT = "cxr_pneumonia", "ct_covid"


def copy_model(name: str, models_dir: Path, gate: ScopeGate | None = None) -> Path:
    """A shipped model in another place, with this gate or with none."""
    folder = models_dir / name
    shutil.copytree(SHIPPED_MODELS / name, folder)
    (folder / SCOPE).unlink(missing_ok=True)
    entry = None
    if gate is not None:
        gate.save(folder / SCOPE)
        words = list(gate.alterations.words)
        entry = {"limit": gate.limit, "refused_validation": 0.01, "alterations": words}
    change(folder / METADATA, {"dicom_node": {"scope_gate": entry}})
    seal(folder)
    return folder


def change(path: Path, edit: dict[str, Any]) -> None:
    """Merge values into a JSON file, one level deep."""
    content = json.loads(path.read_text())
    for key, value in edit.items():
        if isinstance(value, dict):
            content[key] = content[key] | value
        else:
            content[key] = value
    path.write_text(json.dumps(content))


def seal(folder: Path) -> None:
    """State the SHA-256 of the files as they are now."""
    stated = {name: file_sha256(folder / name) for name in digested(folder)}
    change(folder / METADATA, {"dicom_node": {"sha256": stated}})
