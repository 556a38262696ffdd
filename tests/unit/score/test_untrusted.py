"""A model folder is data: whatever it brings along, none of it runs."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dicom_node.errors import ModelError
from dicom_node.score.bundle import INFERENCE, METADATA, ONNX, SCOPE, WEIGHTS, read_bundle
from dicom_node.score.engine import TorchRuntime, open_classifier
from tests.unit.score.folders import CXR, change, copy_model, seal


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._place),)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_model(CXR, tmp_path / "models")


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    """Is there once foreign code has run."""
    return tmp_path / "code-has-run"


def bare_pickle(proof: Path) -> bytes:
    return pickle.dumps(Evil(proof))


def saved_by_torch(proof: Path) -> bytes:
    written = io.BytesIO()
    torch.save({"weight": Evil(proof)}, written)
    return written.getvalue()


def torchscript(_proof: Path) -> bytes:
    class Doubling(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images * 2

    written = io.BytesIO()
    torch.jit.save(torch.jit.script(Doubling()), written)
    return written.getvalue()


def zipped(proof: Path) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("__main__.py", f"import os; os.mkdir({str(proof)!r})")
    return written.getvalue()


FOREIGN = [bare_pickle, saved_by_torch, torchscript, zipped]


@pytest.mark.parametrize("made", FOREIGN)
@pytest.mark.parametrize("name", [WEIGHTS, ONNX])
def test_weights_of_another_kind_are_refused_and_not_run(
    folder: Path, proof: Path, made: Callable[[Path], bytes], name: str
) -> None:
    (folder / name).write_bytes(made(proof))
    seal(folder)
    with pytest.raises(ModelError):
        open_classifier(read_bundle(folder), device="cpu")
    assert not proof.exists()


@pytest.mark.parametrize("made", FOREIGN)
def test_the_engine_for_gpus_refuses_them_too(
    folder: Path, proof: Path, made: Callable[[Path], bytes]
) -> None:
    (folder / WEIGHTS).write_bytes(made(proof))
    seal(folder)
    with pytest.raises(ModelError):
        TorchRuntime(read_bundle(folder), "cpu")
    assert not proof.exists()


def test_the_pickle_of_this_test_would_run(proof: Path) -> None:
    pickle.loads(bare_pickle(proof))
    assert proof.exists()


def test_what_lies_beside_the_known_files_is_never_loaded(folder: Path, proof: Path) -> None:
    (folder / "models" / "model.pt").write_bytes(saved_by_torch(proof))
    (folder / "models" / "model.ts").write_bytes(torchscript(proof))
    (folder / "scripts").mkdir()
    for name in ("__init__.py", "scripts/__init__.py", "configs/sitecustomize.py", "hubconf.py"):
        (folder / name).write_text(f"import os; os.mkdir({str(proof)!r})")
    assert open_classifier(read_bundle(folder), device="cpu").bundle.name == CXR
    assert not proof.exists()


@pytest.mark.parametrize(
    "edit",
    [
        {"network": {"_target_": "os.mkdir", "path": "PROOF"}},
        {"network": {"architecture": "$__import__('os').mkdir('PROOF')"}},
        {"_requires_": "$__import__('os').mkdir('PROOF')"},
        {"preprocessing": {"input": "$__import__('os').mkdir('PROOF')"}},
        {"imports": ["$import os"], "device": "$torch.device('cpu')"},
        {"preprocessing": {"_target_": "Compose", "transforms": []}},
    ],
)
def test_expressions_of_a_monai_configuration_are_refused_and_not_evaluated(
    folder: Path, proof: Path, edit: dict[str, Any]
) -> None:
    change(folder / INFERENCE, edit)
    text = (folder / INFERENCE).read_text().replace("PROOF", str(proof))
    (folder / INFERENCE).write_text(text)
    seal(folder)
    with pytest.raises(ModelError, match="inference"):
        read_bundle(folder)
    assert not proof.exists()


def test_free_fields_of_the_metadata_are_kept_as_text(folder: Path, proof: Path) -> None:
    expression = f"$__import__('os').mkdir('{proof}')"
    change(folder / METADATA, {"references": [expression], "supported_apps": expression})
    bundle = read_bundle(folder)
    assert bundle.metadata.model_extra is not None
    assert bundle.metadata.model_extra["references"] == [expression]
    open_classifier(bundle, device="cpu")
    assert not proof.exists()


def test_a_scope_gate_of_another_kind_is_refused_and_not_run(folder: Path, proof: Path) -> None:
    (folder / SCOPE).write_bytes(bare_pickle(proof))
    gate = {"limit": 1.0, "refused_validation": 0.01}
    change(folder / METADATA, {"dicom_node": {"scope_gate": gate}})
    seal(folder)
    with pytest.raises(ModelError, match=r"scope\.safetensors"):
        open_classifier(read_bundle(folder), device="cpu")
    assert not proof.exists()
