"""Teach a network to look at the lungs: evidence from elsewhere costs, and other backgrounds come.

What lies outside the lungs tells where a film comes from, and in public sets often its class. A
network that learns it is right on such a set and nowhere else (DeGrave et al. 2021, Nature Machine
Intelligence 3, 610). Two means against it: the share of the class activation map outside the lungs
is part of the loss (Ross et al. 2017, arXiv:1703.03717), and a film's lungs are shown before the
background of another film, so that the background says nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from dicom_node.score.networks import Output
from dicom_node.score.transforms import FloatArray
from training.losses import SoftLoss
from training.lung_field import Mask

_SOFT_EDGE = 0.0134
"""Standard deviation, as a share of the side, of the blur of the edge between two films."""
_BLUR = (0.027, 0.09)
_SMALLEST = 1e-6


class Taught(NamedTuple):
    """What a network is taught of N images.

    Attributes
    ----------
    targets
        (N, K) probabilities.
    lungs
        (N, 1, rows, columns) in [0, 1]: where it may look; None: anywhere.
    """

    targets: Tensor
    lungs: Tensor | None


class GuidedLoss(nn.Module):
    """A loss on the logits, and the share of the activations outside the lungs.

    Parameters
    ----------
    labels
        Of logits and targets.
    attention
        Weight of the share; 0 looks at the logits alone.
    """

    def __init__(self, labels: SoftLoss, attention: float) -> None:
        super().__init__()
        self.labels, self.attention = labels, attention

    def forward(self, output: Output, taught: Taught) -> Tensor:
        """Mean loss, a scalar."""
        loss: Tensor = self.labels(output.logits, taught.targets)
        if taught.lungs is None or not self.attention:
            return loss
        return loss + self.attention * outside_share(output.activations, taught.lungs)


def outside_share(activations: Tensor, lungs: Tensor) -> Tensor:
    """Mean share, in [0, 1], of the absolute activations that lies outside the lungs.

    Parameters
    ----------
    activations
        (N, K, h, w): what each place adds to a logit, for or against.
    lungs
        (N, 1, rows, columns) in [0, 1].
    """
    rows, columns = activations.shape[-2:]
    inside = functional.adaptive_avg_pool2d(lungs, (rows, columns))
    strength = activations.abs()
    whole = strength.sum(dim=(1, 2, 3)).clamp_min(_SMALLEST)
    return ((strength * (1 - inside)).sum(dim=(1, 2, 3)) / whole).mean()


def before(background: FloatArray, plane: FloatArray, lungs: Mask) -> FloatArray:
    """The lungs of a plane before the background of another; both (1, r, c) in [0, 1]."""
    share = ndimage.gaussian_filter(lungs.astype(np.float32), _SOFT_EDGE * lungs.shape[0])
    return np.asarray(share * plane + (1 - share) * background, dtype=np.float32)


def random_background(
    plane: FloatArray, other: FloatArray, generator: np.random.Generator
) -> FloatArray:
    """Another film, also mirrored (half of the time), plain gray, or the film itself blurred."""
    kind = generator.integers(4)
    if kind == 0:
        return np.full_like(plane, generator.uniform())
    if kind == 1:
        blur = generator.uniform(*_BLUR) * plane.shape[1]
        gain, lift = generator.uniform(0.5, 1.5), generator.uniform(-0.2, 0.2)
        blurred = ndimage.gaussian_filter(plane[0], blur)[np.newaxis]
        return np.asarray(np.clip(gain * blurred + lift, 0, 1), dtype=np.float32)
    return other[:, :, ::-1] if generator.uniform() < 0.5 else other
