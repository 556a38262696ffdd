"""Run a model: ONNX Runtime in float32 on CPUs, PyTorch from the safetensors weights on CUDA.

Probabilities of one image agree between engines to `FLOAT32_TOLERANCE`; bfloat16 is used on CUDA
only for a model whose card measured a deviation below `BFLOAT16_TOLERANCE`, and only if the golden
images confirm it on this very device.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from dicom_node.errors import ModelError
from dicom_node.score.bundle import SCOPE, Bundle
from dicom_node.score.calibration import calibrated
from dicom_node.score.explain import normalised_maps
from dicom_node.score.golden import build, image_digest
from dicom_node.score.networks import build as build_network
from dicom_node.score.runtime import onnxruntime
from dicom_node.score.scope import ScopeGate
from dicom_node.score.transforms import FloatArray, Pipeline

FLOAT32_TOLERANCE = 1e-3
"""Largest difference of a probability between engines in float32 (measured: below 1e-4)."""
BFLOAT16_TOLERANCE = 0.02
"""Largest difference of a probability in bfloat16 that we accept: a fifth of a printed tenth."""

Device = Literal["auto", "cpu", "cuda"]


class Raw(NamedTuple):
    """What a network says of N images, float32.

    Attributes
    ----------
    logits
        (N, K).
    activations
        (N, K, h, w).
    embedding
        (N, D).
    """

    logits: FloatArray
    activations: FloatArray
    embedding: FloatArray


class Runtime(Protocol):
    """A loaded network."""

    @property
    def description(self) -> str:
        """Runtime, device and precision."""
        ...

    def run(self, batch: FloatArray) -> Raw:
        """Score prepared images (N, 3, H, W) float32."""
        ...


class OnnxRuntime:
    """The fp32 ONNX export on the CPU."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        # The package re-exports its classes in a way that type checkers do not see.
        library: Any = onnxruntime
        options = library.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            # By path: tensors of the file may lie in the weights beside it.
            self._session = library.InferenceSession(
                str(bundle.onnx_path), options, providers=["CPUExecutionProvider"]
            )
        # ONNX Runtime raises its own classes, which share no base but Exception.
        except Exception as error:
            raise ModelError(f"{bundle.name}: models/model.onnx cannot be loaded") from error
        missing = set(Raw._fields) - {output.name for output in self._session.get_outputs()}
        if missing:
            raise ModelError(
                f"{bundle.name}: models/model.onnx has no output {', '.join(sorted(missing))}; "
                "export the model again"
            )

    @property
    def description(self) -> str:
        """Runtime, device and precision."""
        return f"onnxruntime {onnxruntime.__version__} cpu fp32"

    def run(self, batch: FloatArray) -> Raw:
        """Score prepared images (N, 3, H, W) float32."""
        return Raw(*self._session.run(list(Raw._fields), {"images": batch}))


class TorchRuntime:
    """The safetensors weights in a network of our registry."""

    def __init__(self, bundle: Bundle, device: str, *, bfloat16: bool = False) -> None:
        declared = bundle.inference.network
        network = build_network(declared.architecture, declared.outputs)
        try:
            network.load_state_dict(load_file(bundle.weights_path))
        except (RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"{bundle.name}: models/weights.safetensors does not fit the architecture"
            ) from error
        self._network = network.eval().to(device).to(memory_format=torch.channels_last)
        self._device = torch.device(device)
        self._bfloat16 = bfloat16

    @property
    def description(self) -> str:
        """Runtime, device and precision."""
        precision = "bf16" if self._bfloat16 else "fp32"
        return f"torch {torch.__version__} {self._device.type} {precision}"

    def run(self, batch: FloatArray) -> Raw:
        """Score prepared images (N, 3, H, W) float32."""
        images = torch.from_numpy(batch).to(self._device, memory_format=torch.channels_last)
        precision = (
            torch.autocast(self._device.type, torch.bfloat16) if self._bfloat16 else nullcontext()
        )
        # TF32 would round convolutions to 10 bits where float32 is promised.
        exact = torch.backends.cudnn.flags(allow_tf32=False)
        with torch.inference_mode(), precision, exact:
            output = self._network(images)
        return Raw(*(value.float().cpu().numpy() for value in output))


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What a model says of N images.

    Attributes
    ----------
    probabilities
        (N, F) float64, calibrated, in [0, 1]: of the findings in order.
    maps
        (N, F, h, w) float32 in [0, 1]: Grad-CAM, each map scaled to its own maximum.
    outputs
        (N, K) float64, calibrated, in [0, 1]: of every output of the network.
    distance
        (N,) float64 from 0: distance from the training images; above 1 is refused. All 0 where
        the model has no scope gate.
    looks
        N words for the alteration that a picture is refused for, such as "rotated"; else empty.
    """

    probabilities: NDArray[np.float64]
    maps: FloatArray
    outputs: NDArray[np.float64]
    distance: NDArray[np.float64]
    looks: tuple[str, ...]

    def take(self, places: Sequence[int]) -> Scores:
        """The scores of some of the images, in that order."""
        chosen = list(places)
        return Scores(
            self.probabilities[chosen],
            self.maps[chosen],
            self.outputs[chosen],
            self.distance[chosen],
            tuple(self.looks[place] for place in chosen),
        )


class Classifier:
    """A bundle on a runtime, with the bundle's preprocessing and calibration.

    Parameters
    ----------
    batch_size
        Most images to run at once.
    """

    def __init__(self, bundle: Bundle, runtime: Runtime, *, batch_size: int = 16) -> None:
        self.bundle = bundle
        self.pipeline = Pipeline(bundle.inference.preprocessing)
        self._runtime = runtime
        self._batch_size = batch_size
        section = bundle.metadata.dicom_node
        self._calibration = section.calibration
        self._reported = [section.outputs.index(entry.label) for entry in bundle.findings]
        self._gate: ScopeGate | None = None
        if gate := bundle.scope_gate:
            self._gate = ScopeGate.load(bundle.scope_path, gate.limit, gate.alterations)

    @property
    def engine(self) -> str:
        """Runtime, device and precision, e.g. "onnxruntime 1.31.1 cpu fp32"."""
        return self._runtime.description

    def predict(self, tensors: Sequence[FloatArray] | FloatArray) -> Scores:
        """Score prepared images.

        Parameters
        ----------
        tensors
            N arrays (3, rows, columns) float32, or one array (N, 3, rows, columns); N >= 1.
        """
        runs = []
        for start in range(0, len(tensors), self._batch_size):
            batch = np.stack(list(tensors[start : start + self._batch_size])).astype(np.float32)
            runs.append(self._runtime.run(batch))
        raw = Raw(*(np.concatenate(parts) for parts in zip(*runs, strict=True)))
        outputs = calibrated(raw.logits, self._calibration)
        distance, looks = self._asked(raw.embedding)
        return Scores(
            probabilities=outputs[:, self._reported],
            maps=normalised_maps(raw.activations[:, self._reported]),
            outputs=outputs,
            distance=distance,
            looks=looks,
        )

    def _asked(self, embedding: FloatArray) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """What the scope gate says of each image: its distance, and a word."""
        silent = ("",) * len(embedding)
        if self._gate is None:
            return np.zeros(len(embedding)), silent
        try:
            distance = self._gate.distance(embedding)
            # Words are for what is refused, which is rare.
            refused = bool((distance > 1).any())
            return distance, tuple(self._gate.looks(embedding)) if refused else silent
        except ValueError as error:
            raise ModelError(
                f"{self.bundle.name}: {SCOPE} does not belong to the network: {error}"
            ) from error

    def golden_deviation(self) -> float:
        """Largest difference from the golden probabilities.

        Raises
        ------
        ModelError
            A golden image comes out different from the one that was scored at export.
        """
        golden, hounsfield = self.bundle.golden, self.pipeline.declaration.input == "hounsfield"
        images = [build(entry, hounsfield=hounsfield) for entry in golden.images]
        for image, entry in zip(images, golden.images, strict=True):
            if image_digest(image) != entry.sha256:
                raise ModelError(f"{self.bundle.name}: a golden image does not have its SHA-256")
        scores = self.predict([self.pipeline.prepare(image).tensor for image in images])
        expected = np.array([entry.probabilities for entry in golden.images])
        return float(np.abs(scores.outputs - expected).max())

    def check_golden(self, tolerance: float | None = None) -> None:
        """Confirm the golden probabilities, by default to the bundle's float32 tolerance.

        Raises
        ------
        ModelError
            The model does not give here what it gave when it was exported.
        """
        allowed = self.bundle.golden.tolerance if tolerance is None else tolerance
        deviation = self.golden_deviation()
        if not deviation <= allowed:
            raise ModelError(
                f"{self.bundle.name}: golden scores differ by {deviation:.4f} on {self.engine}, "
                f"{allowed:.4f} is allowed"
            )


def open_classifier(
    bundle: Bundle, *, device: Device = "auto", threads: int = 0, batch_size: int = 16
) -> Classifier:
    """Load a model, warm it up and check its golden scores.

    Parameters
    ----------
    device
        `auto` takes CUDA if there is one.
    threads
        CPU threads; 0 leaves the choice to the runtime.

    Raises
    ------
    ModelError
        The model cannot be loaded, gives other scores than at export, or CUDA is asked for and
        absent.
    """
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise ModelError(f"{bundle.name}: device cuda is configured but no CUDA device is usable")
    if device == "cpu" or not has_cuda:
        classifier = Classifier(bundle, OnnxRuntime(bundle, threads), batch_size=batch_size)
        classifier.check_golden()
        return classifier
    if bundle.metadata.dicom_node.bfloat16_deviation <= BFLOAT16_TOLERANCE:
        runtime = TorchRuntime(bundle, "cuda", bfloat16=True)
        classifier = Classifier(bundle, runtime, batch_size=batch_size)
        if classifier.golden_deviation() <= BFLOAT16_TOLERANCE:
            return classifier
    classifier = Classifier(bundle, TorchRuntime(bundle, "cuda"), batch_size=batch_size)
    classifier.check_golden()
    return classifier
