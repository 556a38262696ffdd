"""Write a network as `models/weights.safetensors` and an ONNX file that reads its tensors there.

ONNX lets a tensor lie in another file at a byte offset, and a safetensors file is a header and
then plain little-endian bytes. The weights are thus stored once, and both runtimes read the very
same numbers. The package onnx is needed to write such a file, not to run it.
"""

from __future__ import annotations

import json
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from dicom_node.errors import ModelError
from dicom_node.score.bundle import ONNX, WEIGHTS
from dicom_node.score.networks import Output
from dicom_node.score.runtime import onnxruntime

_OPSET = 18
_HEADER_LENGTH_BYTES = 8
_TOLERANCE = 1e-4
"""Largest difference between the engines, relative to the largest value of an output."""


def write_onnx(network: nn.Module, rows: int, columns: int, folder: Path) -> None:
    """Write weights and ONNX into `folder/models` and check that both give the same.

    Parameters
    ----------
    network
        One of ours, float32 on the CPU; it is exported as it scores, without dropout.
    rows, columns
        Size of its input in pixels; the number of images stays free.

    Raises
    ------
    ModelError
        The package onnx is absent, or ONNX Runtime does not give what PyTorch gives.
    """
    onnx = _onnx()
    was_training = network.training
    network.eval()
    try:
        images = torch.rand((2, 3, rows, columns), generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = network(images)
        onnx_path, weights_path = folder / ONNX, folder / WEIGHTS
        onnx_path.parent.mkdir(parents=True, exist_ok=True)
        state = {key: value.contiguous() for key, value in network.state_dict().items()}
        # Not `save_file`, which makes a file that only its owner can read.
        weights_path.write_bytes(save(state))
        _export(network, images, onnx_path)
        model = onnx.load(str(onnx_path))
        _state_shapes(model, expected)
        _move_tensors_out(onnx, model, state, weights_path)
        onnx.save(model, str(onnx_path))
        onnx.checker.check_model(str(onnx_path), full_check=True)
        _check_same(onnx_path, images, expected)
    finally:
        network.train(was_training)


def _onnx() -> Any:
    try:
        return import_module("onnx")
    except ImportError as error:
        raise ModelError(
            "writing an ONNX file needs the package onnx: install dicom_node[train]"
        ) from error


def _export(network: nn.Module, images: Tensor, path: Path) -> None:
    names = ["images", *Output._fields]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (images,),
            str(path),
            input_names=names[:1],
            output_names=names[1:],
            dynamic_axes={name: {0: "batch"} for name in names},
            opset_version=_OPSET,
            dynamo=False,
            # Both would replace the state dict's tensors by computed ones under other names.
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
        )


def _state_shapes(model: Any, expected: Output) -> None:
    """Give outputs their sizes, which the exporter does not always know."""
    for output, value in zip(model.graph.output, expected, strict=True):
        dimensions = output.type.tensor_type.shape.dim
        for dimension, size in list(zip(dimensions, value.shape, strict=True))[1:]:
            dimension.Clear()
            dimension.dim_value = size
    del model.graph.value_info[:]
    # Traces of the exporting machine's paths do not belong in a published file.
    for node in model.graph.node:
        node.doc_string = ""


def _move_tensors_out(onnx: Any, model: Any, state: dict[str, Tensor], weights: Path) -> None:
    """Point the initialisers that are tensors of the state dict into the safetensors file."""
    regions = _regions(weights)
    for tensor in model.graph.initializer:
        value = state.get(tensor.name)
        if value is None or not np.array_equal(onnx.numpy_helper.to_array(tensor), value.numpy()):
            continue
        offset, length = regions[tensor.name]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, text in (("location", weights.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(text))


def _regions(path: Path) -> dict[str, tuple[int, int]]:
    """Byte offset and length of each tensor in a safetensors file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_HEADER_LENGTH_BYTES), "little")
        header = json.loads(file.read(length))
    start = _HEADER_LENGTH_BYTES + length
    places = {name: entry["data_offsets"] for name, entry in header.items() if "dtype" in entry}
    return {name: (start + begin, end - begin) for name, (begin, end) in places.items()}


def _check_same(path: Path, images: Tensor, expected: Output) -> None:
    library: Any = onnxruntime  # its classes are re-exported in a way that type checkers miss
    session = library.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    values = session.run(list(Output._fields), {"images": images.numpy()})
    for name, value, wanted in zip(Output._fields, values, expected, strict=True):
        difference = np.abs(value - wanted.numpy()).max() / max(1.0, float(wanted.abs().max()))
        if not difference <= _TOLERANCE:
            raise ModelError(
                f"{path.name}: {name} differ by {difference:.1e} between ONNX Runtime and PyTorch"
            )
