"""Write a network's weights and ONNX file into a model folder."""

from dicom_node.score.onnx_writer import write_onnx

__all__ = ["write_onnx"]
