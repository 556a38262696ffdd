"""Heat maps are Grad-CAM, and boxes lie where the heat is, in source pixels."""

from __future__ import annotations

import numpy as np
import torch
from monai.visualize.class_activation_maps import GradCAM

from dicom_node.score.explain import heat_map, normalised_maps, strongest_box
from dicom_node.score.networks import StagedNetwork, build


class _LogitsOnly(torch.nn.Module):
    def __init__(self, network: StagedNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images)[0]
        return logits


def test_the_activation_map_is_the_grad_cam_that_monai_computes() -> None:
    torch.manual_seed(3)
    network = build("EfficientNetLite0", 2).eval()
    # Positive weights: a map without positive evidence would be empty on both sides.
    network.get_submodule("head").get_parameter("weight").data.abs_()
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        ours = normalised_maps(network(images)[1].numpy())[0, 1]

    def relative(map_: np.ndarray) -> np.ndarray:
        return map_ / map_.max()

    layers = len(list(network.get_submodule("features").children()))
    # MONAI's own scaling turns the map upside down; an identity keeps it.
    reference = GradCAM(
        nn_module=_LogitsOnly(network),
        target_layers=f"network.features.{layers - 1}",
        upsampler=lambda shape: lambda map_: map_,
        postprocessing=lambda map_: map_,
    )(images, class_idx=1)
    np.testing.assert_allclose(ours, relative(reference.detach().numpy()[0, 0]), atol=1e-4)


def test_maps_without_positive_evidence_are_empty() -> None:
    assert normalised_maps(np.full((1, 1, 7, 7), -2, np.float32)).max() == 0
    assert strongest_box(np.zeros((7, 7), np.float32), 100, 100) is None


def test_the_box_surrounds_the_strongest_region_in_source_pixels() -> None:
    activation = np.zeros((7, 7), np.float32)
    activation[1, 5] = 1.0
    activation[5, 1] = 0.8
    heat = heat_map(activation, (0, 0, 1400, 2800), rows=2800, columns=1400)
    box = strongest_box(heat, 2800, 1400)
    assert box is not None
    left, top, right, bottom = box
    assert left < 5.5 * 200 < right
    assert top < 1.5 * 400 < bottom
    assert right - left < 500
    assert bottom - top < 1000


def test_heat_outside_the_scored_region_is_zero() -> None:
    heat = heat_map(np.ones((7, 7), np.float32), (128, 256, 384, 512), rows=512, columns=512)
    side = heat.shape[0] / 512
    assert heat[: int(255 * side)].max() == 0
    assert heat[int(400 * side), int(200 * side)] == 1
    assert strongest_box(heat, 512, 512) == (128.0, 256.0, 384.0, 512.0)


def test_a_tiny_region_still_gets_a_pixel() -> None:
    heat = heat_map(np.ones((7, 7), np.float32), (4000, 4000, 4001, 4001), 4096, 4096)
    assert heat.max() == 1
