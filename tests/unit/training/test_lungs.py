"""The lungs are found on a real film, and guidance by them does what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydicom.data import get_testdata_file

from dicom_node.errors import BadInput
from dicom_node.score.networks import Output
from dicom_node.score.pixels import read_frame
from dicom_node.score.transforms import FloatArray, Pipeline
from training import lungs
from training.augment import augmenter, vary, vary_mask
from training.batches import VariedPictures
from training.data import Item, Picture
from training.guidance import GuidedLoss, Taught, before, outside_share
from training.losses import SoftLoss, hard_targets
from training.lungs import film_lungs, slice_lungs, weights_file
from training.recipes import RECIPES
from training.recipes.common import LITE_TENSOR, radiograph, spec
from training.shortcuts import shortcuts

SIDE = 64
PIPELINE = Pipeline(RECIPES["cxr_pneumonia"].preprocessing)


@pytest.fixture(scope="module")
def film() -> FloatArray:
    """The real chest radiograph of pydicom-data, prepared: (1, 224, 224) in [0, 1]."""
    path = get_testdata_file("RG1_UNCR.dcm", download=False)
    assert path is not None
    return PIPELINE.plane(read_frame(Path(path)).display.astype(np.float32))


def left_half() -> NDArray[np.bool_]:
    """Lungs that take the left half of the picture."""
    mask = np.zeros((SIDE, SIDE), dtype=np.bool_)
    mask[:, : SIDE // 2] = True
    return mask


def noise(seed: int) -> FloatArray:
    return np.random.default_rng(seed).uniform(size=(1, SIDE, SIDE)).astype(np.float32)


def test_both_lungs_of_a_real_film_are_found(film: FloatArray) -> None:
    (mask,) = film_lungs([film])
    rows, columns = mask.shape
    assert 0.15 < mask.mean() < 0.6
    for lung in (mask[:, : columns // 2], mask[:, columns // 2 :]):
        assert lung.sum() > 0.3 * mask.sum()
    assert not mask[rows * 2 // 3 :, columns * 9 // 20 : columns * 11 // 20].any()  # the spine
    assert not mask[-rows // 20 :].any()  # the belly
    # Lungs are darker than what is around them.
    assert film[0][mask].mean() < film[0][~mask][film[0][~mask] > 0.1].mean()


def test_where_no_lungs_are_everything_counts() -> None:
    (mask,) = film_lungs([np.full((1, 96, 96), 0.5, dtype=np.float32)])
    assert mask.shape == (96, 96)
    assert mask.all()
    assert film_lungs([]) == []


def test_both_lungs_of_a_slice_are_found_with_their_dense_parts() -> None:
    y, x = np.mgrid[-1 : 1 : 96 * 1j, -1 : 1 : 96 * 1j]
    body = (x / 0.9) ** 2 + (y / 0.75) ** 2 < 1
    lung = ((np.abs(x) - 0.42) / 0.3) ** 2 + (y / 0.5) ** 2 < 1
    dense = lung & (np.abs(y) < 0.1) & (np.abs(x) > 0.6)  # at the chest wall
    plane = (0.8 * body * ~(lung & ~dense)).astype(np.float32)[np.newaxis]
    mask, nothing = slice_lungs([plane, np.zeros_like(plane)])
    assert mask[lung].mean() > 0.98
    assert 0.2 < mask.mean() < 0.7
    assert nothing.all()


def test_what_was_found_is_kept(
    film: FloatArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = film_lungs([film], cache=tmp_path)
    (kept,) = tmp_path.iterdir()
    monkeypatch.setattr(lungs, "weights_file", lambda: pytest.fail("looked again"))
    assert np.array_equal(film_lungs([film], cache=tmp_path), first)
    monkeypatch.undo()
    kept.write_bytes(b"half a file")
    assert np.array_equal(film_lungs([film], cache=tmp_path), first)


def test_weights_that_cannot_be_fetched_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    elsewhere = replace(lungs._PACKAGE, url="file:///nowhere/package-1.tar.gz")
    monkeypatch.setattr(lungs, "_PACKAGE", elsewhere)
    with pytest.raises(BadInput, match=r"(?s)finds the lungs cannot be fetched.*lung_attention=0"):
        weights_file()


def test_only_evidence_outside_the_lungs_costs() -> None:
    allowed = torch.from_numpy(left_half()[np.newaxis, np.newaxis].astype(np.float32))
    inside, outside = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    inside[..., :2], outside[..., 2:] = -3.0, 2.0
    assert float(outside_share(inside, allowed)) == pytest.approx(0)
    assert float(outside_share(outside, allowed)) == pytest.approx(1)
    assert float(outside_share(inside + outside, allowed)) == pytest.approx(0.4)
    labels = SoftLoss("sigmoid", torch.ones(2), 0.0)
    logits, targets = torch.tensor([[1.0]]), torch.tensor([[1.0]])
    plain = float(labels(logits, targets))
    embedding = torch.zeros(1, 2)
    for weight, lung, extra in ((0.5, allowed, 0.5), (0.0, allowed, 0.0), (0.5, None, 0.0)):
        loss = GuidedLoss(labels, weight)(Output(logits, outside, embedding), Taught(targets, lung))
        assert float(loss) == pytest.approx(plain + extra)


def test_lungs_keep_their_pixels_before_another_background() -> None:
    own, other = noise(1), noise(2)
    made = before(other, own, left_half())
    assert np.allclose(made[..., : SIDE // 2 - 6], own[..., : SIDE // 2 - 6], atol=1e-3)
    assert np.allclose(made[..., SIDE // 2 + 6 :], other[..., SIDE // 2 + 6 :], atol=1e-3)


def test_a_mask_moves_with_its_picture() -> None:
    declared = (
        spec("RandAdjustContrast", prob=0.5, gamma=(0.55, 1.8)),
        spec("RandFlip", prob=0.5, spatial_axis=1),
        spec("RandGaussianNoise", prob=0.5, std=0.01),
        spec("RandAffine", prob=0.9, rotate_range=0.4, translate_range=(0.1, 0.1)),
    )
    augment = augmenter(declared, 1, SIDE)
    picture = left_half()[np.newaxis].astype(np.float32)
    for seed in range(12):
        moved = vary_mask(augment, left_half(), seed)
        difference = np.abs(vary(augment, picture, seed) - moved)
        assert float(difference.mean()) < 0.05
        assert 0.3 < float(moved.mean()) < 0.6


def test_guided_pictures_carry_their_lungs_and_other_backgrounds() -> None:
    recipe = replace(
        RECIPES["cxr_pneumonia"],
        # Not compressed: that would change a block of pixels where only one of them differs.
        preprocessing=radiograph(SIDE, LITE_TENSOR, clipped=0.5),
        augmentation=(),
        lung_backgrounds=1.0,
    )
    pictures = [Picture(Item(f"{n}.png", "normal"), noise(n), n % 2) for n in range(6)]
    targets = hard_targets([picture.target for picture in pictures], "sigmoid", 2)
    masks = [left_half()] * len(pictures)
    guided = VariedPictures(recipe, pictures, targets, masks)
    plain = VariedPictures(recipe, pictures, targets)
    for index in range(len(pictures)):
        one, same = guided[1, index], plain[1, index]
        assert np.array_equal(one["lungs"][0] > 0.5, left_half())
        lung, rest = slice(0, SIDE // 2 - 6), slice(SIDE // 2 + 6, None)
        assert np.allclose(one["image"][..., lung], same["image"][..., lung], atol=1e-2)
        assert not np.allclose(one["image"][..., rest], same["image"][..., rest], atol=0.1)
        assert np.array_equal(guided[1, index]["image"], one["image"])
        assert "lungs" not in same


def test_a_model_of_backgrounds_is_found_out() -> None:
    truth = np.arange(40) % 2 == 1
    planes = [noise(n) * 0.2 for n in range(40)]
    for plane, ill in zip(planes, truth, strict=True):
        plane[:, :, -16:] += 0.5 * ill  # a bright arm, say
        plane[:, :8, :8] += 0.5 * ill  # and a consolidation
    masks = [left_half()] * 39 + [np.ones((SIDE, SIDE), dtype=np.bool_)]
    of_arm = shortcuts(
        lambda some: np.array([p[:, :, -16:].mean() for p in some]), planes, truth, masks
    )
    of_lung = shortcuts(
        lambda some: np.array([p[:, :8, :8].mean() for p in some]), planes, truth, masks
    )
    assert (of_arm["n"], of_arm["left_out"]) == (39, 1)
    assert of_arm["auc"]["whole"] == of_lung["auc"]["whole"] == 1
    assert of_arm["auc"]["other_background"] == 0
    assert of_arm["auc"]["background_alone"] == 1
    assert of_lung["auc"]["other_background"] == of_lung["auc"]["lungs_alone"] == 1
    assert shortcuts(len, planes, np.zeros(40, np.bool_), masks)["auc"] == {}  # type: ignore[arg-type]
