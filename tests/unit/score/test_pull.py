"""A published network becomes a model folder; a file that wants more than tensors is refused."""

from __future__ import annotations

import collections
import io
import json
import pickle
import sys
import types
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.errors import ModelError
from dicom_node.score import pull as pull_module
from dicom_node.score import xrv
from dicom_node.score.bundle import METADATA, WEIGHTS, file_sha256, read_bundle
from dicom_node.score.checkpoint import read_tensors
from dicom_node.score.engine import open_classifier
from dicom_node.score.golden import synthetic_image
from dicom_node.score.networks import StagedNetwork, build
from dicom_node.score.pull import pull

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


@pytest.fixture(scope="module")
def network() -> StagedNetwork:
    torch.manual_seed(11)
    made = build("DenseNet121", 18).eval()
    # Small weights, so that an input of +-1024 does not drive every sigmoid to an end.
    made.get_submodule("classifier").get_parameter("weight").data.mul_(0.05)
    return made


@pytest.fixture(scope="module")
def state_file(network: StagedNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("published") / "state.pt"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def pulled(state_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pull("xrv_densenet121", tmp_path_factory.mktemp("models"), file=state_file)


def save_as_published(module: nn.Module, path: Path, *, zipped: bool) -> None:
    """Pickle a whole module whose classes bear the library's names, as the release is."""
    library = types.ModuleType("torchxrayvision")
    models = types.ModuleType("torchxrayvision.models")
    for name in ("DenseNet", "_DenseLayer", "_Transition"):
        made = type(name, (nn.Module,), {"__module__": models.__name__})
        setattr(models, name, made)
    published = models.DenseNet()
    for name in ("features", "classifier"):
        published.add_module(name, boxed(module.get_submodule(name), models))
    published.op_threshs = None
    sys.modules |= {"torchxrayvision": library, models.__name__: models}
    try:
        torch.save(published, path, _use_new_zipfile_serialization=zipped)
    finally:
        del sys.modules["torchxrayvision"], sys.modules[models.__name__]


def boxed(module: nn.Module, models: Any) -> nn.Module:
    """The same parameters and buffers in classes that torch or the stand-in library have."""
    theirs = type(module).__module__.startswith("torch.")
    copy = models._DenseLayer() if not theirs else nn.Identity()
    copy._parameters, copy._buffers = module._parameters, module._buffers
    for name, child in module.named_children():
        copy.add_module(name, boxed(child, models))
    return copy


def test_a_state_dict_becomes_a_usable_model_folder(pulled: Path, state_file: Path) -> None:
    bundle = read_bundle(pulled)
    assert len(bundle.findings) == 18
    assert bundle.findings[0].label == "Pneumonia"
    assert bundle.intended_use.age_years == (18, 150)
    assert bundle.scope_gate is None
    assert 28e6 < sum(path.stat().st_size for path in pulled.rglob("*") if path.is_file()) < 29e6
    classifier = open_classifier(bundle, device="cpu")
    prepared = classifier.pipeline.prepare(synthetic_image(300, 260, 0.5, hounsfield=False))
    assert prepared.tensor.shape == (3, 224, 224)
    assert (prepared.tensor.min(), prepared.tensor.max()) == (-1024, 1024)
    scores = classifier.predict([prepared.tensor])
    assert scores.probabilities.shape == (1, 18)
    assert float(np.ptp(scores.probabilities)) > 0.01
    source = json.loads((pulled / METADATA).read_text())["weights_source"]
    sentence = source.pop("digest")
    digest = file_sha256(state_file)
    assert source == {"url": xrv.URL, "file": state_file.name, "sha256": digest}
    assert sentence.startswith(f"Its SHA-256 is {digest}; it was not compared with a published one")
    assert sentence in (pulled / "docs/README.md").read_text()


def test_the_folder_holds_the_weights_of_the_file(pulled: Path, network: StagedNetwork) -> None:
    stored = load_file(pulled / WEIGHTS)
    assert stored.keys() == network.state_dict().keys()
    assert all(torch.equal(stored[key], value) for key, value in network.state_dict().items())


def test_changed_weights_are_refused_when_the_folder_is_read(pulled: Path, tmp_path: Path) -> None:
    folder = tmp_path / pulled.name
    folder.mkdir()
    for path in pulled.rglob("*"):
        if path.is_file():
            copy = folder / path.relative_to(pulled)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(content))
    with pytest.raises(ModelError, match=WEIGHTS):
        read_bundle(folder)


@FORMATS
def test_a_pickled_module_gives_its_tensors_without_its_classes(
    network: StagedNetwork, tmp_path: Path, zipped: bool
) -> None:
    path = tmp_path / "published.pt"
    save_as_published(network, path, zipped=zipped)
    tensors = read_tensors(path)
    expected = network.state_dict()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[key], value) for key, value in expected.items())


@FORMATS
def test_a_state_dict_keeps_views_types_and_shapes(tmp_path: Path, zipped: bool) -> None:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    content = {
        "view": base[1:3, ::2],
        "turned": base.t(),
        "shared": base,
        "half": torch.tensor([0.5], dtype=torch.float16),
        "brain": torch.tensor([0.5, -3.0], dtype=torch.bfloat16),
        "count": torch.tensor(3),
        "empty": torch.zeros(0),
        "parameter": nn.Parameter(torch.ones(2)),
    }
    path = tmp_path / "state.pt"
    torch.save({"state_dict": content, "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    tensors = read_tensors(path)
    assert tensors.keys() == content.keys()
    for key, value in content.items():
        assert tensors[key].dtype == value.dtype
        assert torch.equal(tensors[key], value)


class Shell:
    """Would run a command if it were unpickled as pickle does it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


@FORMATS
def test_code_in_a_checkpoint_is_named_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path, marker = tmp_path / "evil.pt", tmp_path / "ran"
    content = {"weight": torch.ones(2), "more": Shell(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"asks for (getattr|builtins|pathlib|__builtin__)"):
        read_tensors(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch.nn.modulesx", "f"),
        ("torch.hub", "load"),
        ("torch.serialization", "load"),
    ],
)
def test_only_tensors_and_layers_are_looked_up(name: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    stream = f"c{name[0]}\n{name[1]}\n(Vignored\ntR.".encode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream)
    with pytest.raises(ModelError, match=rf"asks for {name[0]}\.{name[1]}"):
        read_tensors(path)


def test_a_layer_name_is_a_box_that_calls_nothing(tmp_path: Path) -> None:
    # A dotted name could reach another module through an allowed one.
    path = tmp_path / "odd.pt"
    stream = b"ctorch.nn.modules.module\nwarnings.warn\n(Vtext\ntR."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream)
    assert read_tensors(path) == {}


def damaged(kind: str, network: StagedNetwork) -> bytes:
    file = io.BytesIO()
    torch.save(network.state_dict(), file, _use_new_zipfile_serialization=False)
    whole = file.getvalue()
    return {
        "empty": b"",
        "text": b"<html>Not Found</html>",
        "cut": whole[: len(whole) // 2],
        "pickle": pickle.dumps([1, 2]),
        "other order": pickle.dumps(collections.OrderedDict(a=1)) * 5,
    }[kind]


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "pickle", "other order"])
def test_a_damaged_file_is_named(kind: str, network: StagedNetwork, tmp_path: Path) -> None:
    path = tmp_path / "damaged.pt"
    path.write_bytes(damaged(kind, network))
    with pytest.raises(ModelError, match=r"damaged\.pt cannot be read as PyTorch weights"):
        read_tensors(path)


def test_tensors_outside_their_storage_are_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save({"a": torch.arange(4.0)[1:]}, file)
    path = tmp_path / "outside.pt"
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                # The only 1 that pickle writes as BININT1 before the size (3,) is the offset.
                content = content.replace(b"K\x01K\x03\x85", b"K\x7fK\x03\x85")
            target.writestr(name, content)
    with pytest.raises(ModelError, match=r"outside\.pt cannot be read"):
        read_tensors(path)


def test_thresholds_of_the_checkpoint_are_taken(network: StagedNetwork, tmp_path: Path) -> None:
    thresholds = torch.linspace(0.1, 0.9, 18)
    thresholds[3] = float("nan")
    path = tmp_path / "state.pt"
    torch.save(network.state_dict() | {"op_threshs": thresholds}, path)
    bundle = read_bundle(pull("xrv_densenet121", tmp_path / "models", file=path))
    found = {entry.label: entry.threshold for entry in bundle.findings}
    assert found["Atelectasis"] == pytest.approx(0.1)
    assert found["Pneumothorax"] == pytest.approx(0.0098118475)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "nan"])
def test_another_network_is_refused_and_nothing_is_left(
    change: str, network: StagedNetwork, tmp_path: Path
) -> None:
    state: dict[str, Tensor] = dict(network.state_dict())
    if change == "missing":
        del state["classifier.bias"]
    elif change == "unknown":
        state["features.conv9.weight"] = torch.ones(1)
    elif change == "shape":
        state["classifier.bias"] = torch.zeros(14)
    else:
        state["classifier.bias"] = torch.full((18,), float("nan"))
    path = tmp_path / "state.pt"
    torch.save(state, path)
    reason = "no numbers" if change == "nan" else "does not hold DenseNet121 with 18 outputs"
    with pytest.raises(ModelError, match=reason):
        pull("xrv_densenet121", tmp_path / "models", file=path)
    assert list((tmp_path / "models").iterdir()) == []


def test_the_checksum_is_checked_before_the_file_is_read(
    state_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(path: Path) -> dict[str, Tensor]:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(pull_module, "read_tensors", never)
    with pytest.raises(ModelError, match="not the file asked for"):
        pull("xrv_densenet121", tmp_path, file=state_file, sha256="0" * 64)


def test_without_network_the_way_around_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(url: str, timeout: float) -> Any:
        raise urllib.error.URLError(f"no route after {timeout:.0f} s to {url[:8]}")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    with pytest.raises(ModelError) as caught:
        pull("xrv_densenet121", tmp_path)
    for part in (xrv.URL, "no route", "dicom-node models pull xrv_densenet121 --file PATH"):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_download_is_converted(
    state_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: state_file.open("rb"))
    folder = pull("xrv_densenet121", tmp_path, sha256=file_sha256(state_file))
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    source = json.loads((folder / METADATA).read_text())["weights_source"]
    assert source["file"] == xrv.URL.rsplit("/", 1)[-1]
    verified = (
        f"SHA-256 was verified, it is the one given with --sha256: {file_sha256(state_file)}."
    )
    assert source["digest"].endswith(verified)
    assert verified in (folder / "docs/README.md").read_text()


def test_a_folder_that_is_there_is_kept(pulled: Path, state_file: Path) -> None:
    with pytest.raises(ModelError, match="is there already"):
        pull("xrv_densenet121", pulled.parent, file=state_file)


def test_an_unknown_name_and_an_absent_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"known are xrv_densenet121"):
        pull("alexnet", tmp_path)
    with pytest.raises(ModelError, match=r"absent\.pt is not there"):
        pull("xrv_densenet121", tmp_path, file=tmp_path / "absent.pt")


def test_the_command_pulls_into_the_models_of_the_configuration(
    network: StagedNetwork, tmp_path: Path
) -> None:
    published = tmp_path / "published.pt"
    save_as_published(network, published, zipped=False)
    settings = tmp_path / "node.yaml"
    settings.write_text(f"home: {tmp_path / 'home'}\nmodels_dir: {tmp_path / 'models'}\n")
    arguments = ["models", "pull", "xrv_densenet121", "--file", str(published)]
    result = CliRunner().invoke(app, [*arguments, "--config", str(settings)])
    assert result.exit_code == 0, result.output
    assert "xrv_densenet121 1.0.0: usable" in result.output
    assert f"made from published.pt. Its SHA-256 is {file_sha256(published)}" in result.output
    assert "not compared with a published one" in result.output
    assert read_bundle(tmp_path / "models" / "xrv_densenet121").version == "1.0.0"
