"""A model folder is refused with every reason, and a changed file never becomes a score."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dicom_node.errors import ModelError
from dicom_node.paths import SHIPPED_MODELS
from dicom_node.score.bundle import (
    CARD,
    DIGESTED,
    GOLDEN,
    INFERENCE,
    METADATA,
    ONNX,
    WEIGHTS,
    Bundle,
    file_sha256,
    find_bundles,
    read_bundle,
)
from dicom_node.score.engine import open_classifier
from dicom_node.score.manifest import ARCHITECTURE_NAMES
from dicom_node.score.networks import ARCHITECTURES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the radiograph model to spoil."""
    target = tmp_path / "cxr-pneumonia"
    shutil.copytree(SHIPPED_MODELS / "cxr-pneumonia", target)
    return target


def change(path: Path, edit: dict[str, Any]) -> None:
    """Merge values into a JSON file, one level deep."""
    content = json.loads(path.read_text())
    for key, value in edit.items():
        if isinstance(value, dict):
            content[key] = content[key] | value
        else:
            content[key] = value
    path.write_text(json.dumps(content))


def reseal(folder: Path) -> None:
    """State the SHA-256 of the files as they are now."""
    change(
        folder / METADATA,
        {"dicom_node": {"sha256": {n: file_sha256(folder / n) for n in DIGESTED}}},
    )


def test_the_shipped_models_are_usable() -> None:
    bundles, refused = find_bundles(SHIPPED_MODELS)
    assert refused == {}
    assert [(b.name, b.kind) for b in bundles] == [
        ("ct-covid", "ct_series"),
        ("cxr-pneumonia", "cxr_image"),
    ]
    assert all(bundle.verify() == () for bundle in bundles)


def test_the_identity_names_weights_preprocessing_and_thresholds(
    cxr_bundle: Bundle, ct_bundle: Bundle
) -> None:
    identity = cxr_bundle.identity
    assert identity.weights_sha256 == file_sha256(cxr_bundle.weights_path)
    assert identity.preprocessing_digest == cxr_bundle.inference.preprocessing.digest()
    assert identity.thresholds_digest != ct_bundle.identity.thresholds_digest


def test_architectures_are_known_without_torch() -> None:
    assert frozenset(ARCHITECTURES) == ARCHITECTURE_NAMES


def test_reading_a_bundle_imports_no_torch() -> None:
    code = (
        "import sys, dicom_node.score.bundle; "
        "sys.exit(bool({'torch', 'monai', 'onnxruntime'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_an_empty_folder_lacks_everything(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        read_bundle(tmp_path)
    assert all(f"{name} is missing" in str(caught.value) for name in (METADATA, *DIGESTED))


def test_every_reason_is_given_at_once(folder: Path) -> None:
    (folder / CARD).unlink()
    change(folder / METADATA, {"version": "one", "dicom_node": {"kind": "mri", "surprise": 1}})
    (folder / GOLDEN).write_text("{")
    with pytest.raises(ModelError) as caught:
        read_bundle(folder)
    message = str(caught.value)
    for part in (CARD, "version", "dicom_node.kind", "dicom_node.surprise", "not readable JSON"):
        assert part in message


@pytest.mark.parametrize("name", DIGESTED)
def test_a_changed_file_is_refused(name: str, folder: Path) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(bytes(content))
    with pytest.raises(ModelError, match=name):
        read_bundle(folder)


def test_changed_weights_with_a_fitting_digest_fail_the_golden_scores(folder: Path) -> None:
    other = SHIPPED_MODELS / "ct-covid"
    shutil.copyfile(other / ONNX, folder / ONNX)
    shutil.copyfile(other / WEIGHTS, folder / WEIGHTS)
    reseal(folder)
    bundle = read_bundle(folder)
    with pytest.raises(ModelError, match="golden scores differ"):
        open_classifier(bundle, device="cpu")


def test_a_file_that_is_no_network_is_refused(folder: Path) -> None:
    (folder / ONNX).write_bytes(b"nothing")
    reseal(folder)
    with pytest.raises(ModelError, match=r"model\.onnx cannot be loaded"):
        open_classifier(read_bundle(folder), device="cpu")


@pytest.mark.parametrize(
    ("name", "edit", "reason"),
    [
        (INFERENCE, {"network": {"architecture": "os.system"}}, "is not known"),
        (INFERENCE, {"network": {"findings": 3}}, "3 outputs for 1 findings"),
        (INFERENCE, {"preprocessing": {"input": "hounsfield"}}, "takes display input"),
        (INFERENCE, {"_target_": "$print(1)"}, "Extra inputs are not permitted"),
        (METADATA, {"dicom_node": {"name": "other-name"}}, "must be called other-name"),
        (METADATA, {"dicom_node": {"findings": []}}, "findings"),
        (
            METADATA,
            {"dicom_node": {"aggregation": {"slices": 3, "top_share": 1, "key_slices": 1}}},
            "aggregation belongs to kind ct_series",
        ),
        (GOLDEN, {"tolerance": 0.5}, "tolerance"),
    ],
)
def test_a_declaration_that_cannot_be_right_is_refused(
    name: str, edit: dict[str, Any], reason: str, folder: Path
) -> None:
    change(folder / name, edit)
    reseal(folder)
    with pytest.raises(ModelError, match=reason):
        read_bundle(folder)


def test_a_link_out_of_the_folder_is_no_file_of_it(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    (folder / WEIGHTS).rename(outside)
    (folder / WEIGHTS).symlink_to(outside)
    with pytest.raises(ModelError, match=f"{WEIGHTS} is missing"):
        read_bundle(folder)


def test_a_bad_folder_does_not_hide_the_good_ones(folder: Path) -> None:
    (folder.parent / "broken").mkdir()
    (folder.parent / ".hidden").mkdir()
    bundles, refused = find_bundles(folder.parent)
    assert [bundle.name for bundle in bundles] == ["cxr-pneumonia"]
    assert list(refused) == ["broken"]


def test_no_models_at_all_is_not_an_error(tmp_path: Path) -> None:
    assert find_bundles(tmp_path / "absent") == ((), {})
