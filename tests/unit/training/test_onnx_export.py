"""The ONNX file reads its tensors from the weights beside it, and scores as PyTorch does."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from dicom_node.errors import ModelError
from dicom_node.score.bundle import ONNX, WEIGHTS
from dicom_node.score.networks import Output, StagedNetwork, build
from dicom_node.score.onnxfile import external_files
from training.onnx_export import write_onnx

SIDE = 64
MEGABYTE = 1e6


def settled(network: StagedNetwork) -> StagedNetwork:
    """Batch statistics as after training: folding them wrongly would show."""
    generator = torch.Generator().manual_seed(2)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_var is not None:
            layer.get_buffer("running_mean").normal_(0, 0.2, generator=generator)
            layer.get_buffer("running_var").uniform_(0.5, 2, generator=generator)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> StagedNetwork:
    torch.manual_seed(1)
    return settled(build("EfficientNetLite1", 2))


@pytest.fixture(scope="module")
def folder(network: StagedNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that was written elsewhere and then moved here."""
    place: Path = tmp_path_factory.mktemp("onnx")
    write_onnx(network, SIDE, SIDE, place / "made")
    return Path(shutil.move(place / "made", place / "moved"))


def run(path: Path, images: Tensor) -> list[NDArray[np.float32]]:
    library: Any = onnxruntime
    session = library.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    values: list[NDArray[np.float32]] = session.run(
        list(Output._fields), {"images": images.numpy()}
    )
    return values


@pytest.mark.parametrize("count", [1, 3])
def test_results_are_those_of_pytorch(count: int, network: StagedNetwork, folder: Path) -> None:
    images = torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = network(images)
    for value, wanted in zip(run(folder / ONNX, images), expected, strict=True):
        assert value.shape == wanted.shape
        assert np.abs(value - wanted.numpy()).max() < 1e-5 * max(1, float(wanted.abs().max()))


def test_the_weights_are_stored_once(network: StagedNetwork, folder: Path) -> None:
    assert (folder / ONNX).stat().st_size < 0.2 * MEGABYTE
    assert sum(path.stat().st_size for path in (folder / "models").iterdir()) < 17 * MEGABYTE
    assert external_files(folder / ONNX) == {Path(WEIGHTS).name}
    stored = load_file(folder / WEIGHTS)
    assert all(torch.equal(stored[key], value) for key, value in network.state_dict().items())


def test_every_tensor_in_the_onnx_file_is_one_of_the_state_dict(
    network: StagedNetwork, folder: Path
) -> None:
    model = onnx.load(str(folder / ONNX))
    state = network.state_dict()
    for tensor in model.graph.initializer:
        assert np.array_equal(onnx.numpy_helper.to_array(tensor), state[tensor.name].numpy())


def test_other_numbers_in_the_weights_change_the_score(
    network: StagedNetwork, folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    images = torch.ones(1, 3, SIDE, SIDE)
    before = run(copy / ONNX, images)[0]
    content = (copy / WEIGHTS).read_bytes()
    place = content.index(network.get_parameter("head.weight").detach().numpy().tobytes())
    doubled = (2 * network.get_parameter("head.weight").detach()).numpy().tobytes()
    (copy / WEIGHTS).write_bytes(content[:place] + doubled + content[place + len(doubled) :])
    assert np.allclose(run(copy / ONNX, images)[0], 2 * before, rtol=1e-4)


def test_the_file_passes_the_checker_and_names_no_path_of_this_machine(folder: Path) -> None:
    onnx.checker.check_model(str(folder / ONNX), full_check=True)
    content = (folder / ONNX).read_bytes()
    for trace in (str(Path(__file__).resolve().parents[3]), sys.prefix, ".py"):
        assert trace.encode() not in content


def test_only_the_number_of_images_is_free(folder: Path) -> None:
    model = onnx.load(str(folder / ONNX), load_external_data=False)
    shapes = {
        output.name: [
            item.dim_param or item.dim_value for item in output.type.tensor_type.shape.dim
        ]
        for output in model.graph.output
    }
    assert shapes == {
        "logits": ["batch", 2],
        "activations": ["batch", 2, SIDE // 32, SIDE // 32],
        "embedding": ["batch", 744],
    }


@pytest.mark.parametrize(
    ("architecture", "side"),
    [
        ("DenseNet121", 64),
        ("EfficientNetB0", 64),
        ("FiveBlockCNN", 64),
        ("InceptionV3", 192),
        ("ResNet50", 64),
        ("VGG16", 128),
    ],
)
def test_every_architecture_can_be_written(architecture: str, side: int, tmp_path: Path) -> None:
    torch.manual_seed(4)
    write_onnx(settled(build(architecture, 3)), side, side, tmp_path)
    assert external_files(tmp_path / ONNX) == {Path(WEIGHTS).name}
    assert (tmp_path / ONNX).stat().st_size < 0.25 * MEGABYTE


def test_a_network_in_training_is_written_as_it_scores_and_left_in_training(
    tmp_path: Path,
) -> None:
    network = build("FiveBlockCNN", 1).train()
    write_onnx(network, SIDE, SIDE, tmp_path)
    assert network.training
    assert "Dropout" not in {node.op_type for node in onnx.load(str(tmp_path / ONNX)).graph.node}


def test_a_missing_onnx_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModelError, match=r"install dicom_node\[train\]"):
        write_onnx(build("FiveBlockCNN", 1), SIDE, SIDE, tmp_path)


def test_a_difference_between_the_engines_is_an_error(tmp_path: Path) -> None:
    class Restless(StagedNetwork):
        """Gives something else whenever it is asked."""

        calls = 0

        def forward(self, images: Tensor) -> Output:
            """Add the number of calls to the logits."""
            self.calls += 1
            output = super().forward(images)
            return output._replace(logits=output.logits + self.calls)

    network = build("FiveBlockCNN", 1)
    network.__class__ = Restless
    with pytest.raises(ModelError, match="logits differ by"):
        write_onnx(network, SIDE, SIDE, tmp_path)
