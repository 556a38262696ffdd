"""A model folder is refused with every reason, and a changed file never becomes a score."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
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
    SCOPE,
    WEIGHTS,
    Bundle,
    file_sha256,
    find_bundles,
    read_bundle,
)
from dicom_node.score.engine import open_classifier
from dicom_node.score.manifest import ARCHITECTURE_NAMES
from dicom_node.score.networks import ARCHITECTURES
from dicom_node.score.scope import ScopeGate
from tests.unit.score.folders import CT, CXR, change, copy_model, seal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the radiograph model to spoil."""
    return copy_model(CXR, tmp_path)


@pytest.fixture
def gated(tmp_path: Path, drawn_gate: ScopeGate) -> Path:
    """A copy with a scope gate."""
    return copy_model(CXR, tmp_path, drawn_gate)


def test_the_shipped_models_are_usable() -> None:
    bundles, refused = find_bundles(SHIPPED_MODELS)
    assert refused == {}
    kinds = {bundle.name: bundle.kind for bundle in bundles}
    assert kinds.items() >= {CT: "ct_series", CXR: "cxr_image"}.items()
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


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^model folder lost: there is no such folder$"):
        read_bundle(tmp_path / "lost")


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
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-400_000:] = bytes(400_000)
    (folder / WEIGHTS).write_bytes(content)
    seal(folder)
    bundle = read_bundle(folder)
    with pytest.raises(ModelError, match="golden scores differ"):
        open_classifier(bundle, device="cpu")


def test_a_file_that_is_no_network_is_refused(folder: Path) -> None:
    (folder / ONNX).write_bytes(b"\x08\x09")  # an ONNX version number and nothing else
    seal(folder)
    with pytest.raises(ModelError, match=r"model\.onnx cannot be loaded"):
        open_classifier(read_bundle(folder), device="cpu")


def test_a_network_without_an_embedding_must_be_exported_again(folder: Path) -> None:
    content = (folder / ONNX).read_bytes()
    (folder / ONNX).write_bytes(content.replace(b"embedding", b"embeddin_"))
    seal(folder)
    with pytest.raises(ModelError, match="no output embedding; export the model again"):
        open_classifier(read_bundle(folder), device="cpu")


@pytest.mark.parametrize(
    "place", ["../../../etc/passwd", "/usr/share/elsewhere", "weights.safetensors2"]
)
def test_a_network_that_reads_other_files_is_refused(folder: Path, place: str) -> None:
    point_elsewhere(folder, place)
    with pytest.raises(ModelError, match=f"reads tensors from '{place}'"):
        read_bundle(folder)


def test_the_runtime_itself_reads_nothing_outside_the_folder(folder: Path) -> None:
    (folder.parent / "outside").write_bytes((folder / WEIGHTS).read_bytes())
    bundle = read_bundle(folder)
    point_elsewhere(folder, "../../outside")  # after the bundle was read
    with pytest.raises(ModelError, match=r"model\.onnx cannot be loaded"):
        open_classifier(bundle, device="cpu")


def point_elsewhere(folder: Path, place: str) -> None:
    """Let the ONNX file's tensors lie in another file."""
    model = onnx.load(str(folder / ONNX), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = place
    (folder / ONNX).write_bytes(model.SerializeToString())
    seal(folder)


def test_a_folder_of_the_first_format_says_what_to_do(folder: Path) -> None:
    change(folder / METADATA, {"dicom_node": {"format": 1}})
    with pytest.raises(ModelError, match=r"has format 1 .* export the model again"):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("name", "edit", "reason"),
    [
        (INFERENCE, {"network": {"architecture": "os.system"}}, "is not known"),
        (INFERENCE, {"network": {"outputs": 9}}, "9 outputs, configs/metadata.json names"),
        (INFERENCE, {"preprocessing": {"input": "hounsfield"}}, "takes display input"),
        (INFERENCE, {"_target_": "$print(1)"}, "Extra inputs are not permitted"),
        (METADATA, {"dicom_node": {"name": "other_name"}}, "must be called other_name"),
        (METADATA, {"dicom_node": {"name": "../other"}}, "name: String should match"),
        (METADATA, {"dicom_node": {"findings": []}}, "findings"),
        (
            METADATA,
            {"dicom_node": {"aggregation": {"slices": 3, "top_share": 1, "key_slices": 1}}},
            "aggregation belongs to kind ct_series",
        ),
        (METADATA, {"dicom_node": {"labels": ["sound", "ill"]}}, "is not among the labels"),
        (METADATA, {"dicom_node": {"labels": ["ill", "ill"]}}, "labels name a label twice"),
        (METADATA, {"dicom_node": {"outputs": ["normal"]}}, "pneumonia is not among the outputs"),
        (GOLDEN, {"tolerance": 0.5}, "tolerance"),
    ],
)
def test_a_declaration_that_cannot_be_right_is_refused(
    name: str, edit: dict[str, Any], reason: str, folder: Path
) -> None:
    change(folder / name, edit)
    seal(folder)
    with pytest.raises(ModelError, match=reason):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("calibration", "reason"),
    [
        ({"function": "sigmoid", "temperature": 1, "bias": [0] * 9}, "calibration has 9 biases"),
        ({"function": "sigmoid", "temperature": 0, "bias": [0]}, "calibration.temperature"),
        ({"function": "relu", "temperature": 1, "bias": [0]}, "calibration.function"),
        ({"function": "sigmoid", "temperature": 1, "bias": [float("nan")]}, "finite number"),
    ],
)
def test_a_calibration_that_cannot_be_right_is_refused(
    calibration: dict[str, Any], reason: str, folder: Path
) -> None:
    change(folder / METADATA, {"dicom_node": {"calibration": calibration}})
    with pytest.raises(ModelError, match=reason):
        read_bundle(folder)


def test_softmax_needs_an_output_for_every_label(folder: Path) -> None:
    single = {"function": "softmax", "temperature": 1, "bias": [0]}
    change(folder / METADATA, {"dicom_node": {"calibration": single, "outputs": ["pneumonia"]}})
    with pytest.raises(ModelError, match="softmax needs an output for each"):
        read_bundle(folder)


def point(name: str, threshold: float) -> dict[str, Any]:
    return {"name": name, "threshold": threshold, "sensitivity": 0.9, "specificity": 0.8}


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([point("balanced", 0.6)], "threshold 0.5 is none of its operating points"),
        ([point("balanced", 0.5), point("balanced", 0.6)], "two operating points of one name"),
        ([point("sensitive", 0.5)], "operating_points.0.name"),
    ],
)
def test_operating_points_that_cannot_be_right_are_refused(
    points: list[dict[str, Any]], reason: str, folder: Path
) -> None:
    section = json.loads((folder / METADATA).read_text())["dicom_node"]
    finding = section["findings"][0] | {"threshold": 0.5, "operating_points": points}
    change(folder / METADATA, {"dicom_node": {"findings": [finding]}})
    with pytest.raises(ModelError, match=reason):
        read_bundle(folder)


def test_a_gated_folder_is_read_and_its_gate_is_part_of_the_identity(
    gated: Path, cxr_bundle: Bundle
) -> None:
    bundle = read_bundle(gated)
    assert bundle.scope_gate is not None
    assert bundle.identity.thresholds_digest != cxr_bundle.identity.thresholds_digest


def test_a_gate_and_its_declaration_belong_together(gated: Path) -> None:
    declared = json.loads((gated / METADATA).read_text())["dicom_node"]["scope_gate"]
    change(gated / METADATA, {"dicom_node": {"scope_gate": None}})
    with pytest.raises(ModelError, match=f"states no scope_gate for {SCOPE}"):
        read_bundle(gated)
    change(gated / METADATA, {"dicom_node": {"scope_gate": declared}})
    (gated / SCOPE).rename(gated / "elsewhere")
    with pytest.raises(ModelError, match=f"{SCOPE} is missing"):
        read_bundle(gated)
    (gated / "elsewhere").rename(gated / SCOPE)
    (gated / SCOPE).write_bytes((gated / SCOPE).read_bytes() + b" ")
    with pytest.raises(ModelError, match=f"{SCOPE} is not the file"):
        read_bundle(gated)


def test_a_gate_without_a_digest_is_refused(gated: Path) -> None:
    section = json.loads((gated / METADATA).read_text())["dicom_node"]
    change(gated / METADATA, {"dicom_node": {"sha256": dict(list(section["sha256"].items())[:-1])}})
    with pytest.raises(ModelError, match=f"states no SHA-256 for {SCOPE}"):
        read_bundle(gated)


def test_a_damaged_gate_is_refused_by_name_when_the_model_is_opened(gated: Path) -> None:
    (gated / SCOPE).write_bytes(b"nothing")
    seal(gated)
    with pytest.raises(ModelError, match=r"scope\.safetensors cannot be read"):
        open_classifier(read_bundle(gated), device="cpu")


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
    assert [bundle.name for bundle in bundles] == [CXR]
    assert list(refused) == ["broken"]


def test_no_models_at_all_is_not_an_error(tmp_path: Path) -> None:
    assert find_bundles(tmp_path / "absent") == ((), {})
