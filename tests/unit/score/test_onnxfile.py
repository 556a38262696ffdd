"""Every tensor of an ONNX file that lies in another file is found, wherever it hides."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

from dicom_node.errors import ModelError
from dicom_node.score.onnxfile import external_files


def outside(location: str) -> onnx.TensorProto:
    """A tensor whose numbers lie in another file."""
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="offset", value="0")
    return tensor


def sparse(location: str) -> onnx.SparseTensorProto:
    found = onnx.SparseTensorProto(dims=[4])
    found.values.CopyFrom(outside(location))
    return found


def hiding_everywhere() -> onnx.ModelProto:
    """External tensors in every place of the format that can hold one."""
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=outside("attribute"))],
        "inner", [], [], initializer=[outside("subgraph")],
    )  # fmt: skip
    node = helper.make_node("If", ["x"], ["y"], then_branch=inner)
    node.attribute.append(helper.make_attribute("many", [outside("attribute list")]))
    node.attribute.append(helper.make_attribute("thin", sparse("sparse attribute")))
    node.attribute.append(helper.make_attribute("branches", [inner]))
    graph = helper.make_graph([node], "outer", [], [], initializer=[outside("initialiser")])
    graph.sparse_initializer.append(sparse("sparse initialiser"))
    model = helper.make_model(graph)
    function = model.functions.add(name="f", domain="d")
    function.node.append(helper.make_node("Constant", [], ["c"], value=outside("function")))
    function.attribute_proto.append(helper.make_attribute("a", outside("function attribute")))
    training = model.training_info.add()
    training.algorithm.initializer.append(outside("training"))
    return model


def test_a_tensor_is_found_wherever_it_is(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(hiding_everywhere().SerializeToString())
    assert external_files(tmp_path / "model.onnx") == {
        "attribute", "subgraph", "attribute list", "sparse attribute", "initialiser",
        "sparse initialiser", "function", "function attribute", "training",
    }  # fmt: skip


def test_a_file_with_all_tensors_inside_reads_no_other(tmp_path: Path) -> None:
    tensor = helper.make_tensor("w", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    model = helper.make_model(helper.make_graph([], "g", [], [], initializer=[tensor]))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert external_files(tmp_path / "model.onnx") == frozenset()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nothing",
        b"\xff" * 40,
        b"\x3a\x7f",
        hiding_everywhere().SerializeToString()[:-5],
    ],
)
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="not readable as ONNX"):
        external_files(tmp_path / "model.onnx")


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    length = bytes([len(content) & 0x7F | 0x80, len(content) >> 7])
    return bytes([number << 3 | 2]) + length + content


def test_a_bottomless_file_is_refused(tmp_path: Path) -> None:
    graph = b""
    for _ in range(400):
        graph = field(1, field(5, field(6, graph)))  # node, its attribute, the graph in that
    (tmp_path / "model.onnx").write_bytes(field(7, graph))
    with pytest.raises(ModelError, match="not readable as ONNX"):
        external_files(tmp_path / "model.onnx")
