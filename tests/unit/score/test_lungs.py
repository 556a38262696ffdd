"""Lungs are found where they are, airways and table are not taken for them, and doubt is said."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.data import get_testdata_file

from dicom_node.demo.phantom import extend_series, write_thorax_phantom
from dicom_node.score.lungs import LungMask, body_box, choose_slices, find_lungs
from dicom_node.score.volume import Volume, build_volume

NOW = datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC)
DATA = Path(os.environ.get("DICOM_NODE_DATA", Path(__file__).parents[4] / "shared" / "data"))
REAL = DATA / "dicom" / "ct_chest"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real slices are not here")


@pytest.fixture(scope="module")
def thorax(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    folder = tmp_path_factory.mktemp("thorax")
    return build_volume(write_thorax_phantom(folder, seed="lungs", now=NOW, slices=48, matrix=256))


@pytest.fixture(scope="module")
def lungs(thorax: Volume) -> LungMask:
    return find_lungs(thorax)


def aerated(volume: Volume) -> NDArray[np.bool_]:
    """Voxels that are lung by the phantom's making; the blurred skin around the body is not."""
    lung = (volume.hu > -920) & (volume.hu < -780)
    for axis, step in ((1, 2), (1, -2), (2, 2), (2, -2)):
        lung &= np.roll(volume.hu, step, axis=axis) > -920
    return np.asarray(lung)


def test_the_mask_covers_the_lungs_of_the_phantom_and_little_else(
    thorax: Volume, lungs: LungMask
) -> None:
    assert lungs.mask.shape == thorax.hu.shape
    assert lungs.mask.dtype == np.bool_
    assert lungs.refusal is None
    assert lungs.notes == ()
    truth = aerated(thorax)
    assert (lungs.mask & truth).sum() > 0.95 * truth.sum()
    assert (lungs.mask & (thorax.hu > 300)).sum() < 0.01 * lungs.mask.sum()


def test_volume_areas_and_sides_agree_with_the_mask(thorax: Volume, lungs: LungMask) -> None:
    pixel_mm2 = thorax.spacing[1] * thorax.spacing[2]
    areas = lungs.mask.sum(axis=(1, 2)) * pixel_mm2
    assert lungs.areas_mm2 == pytest.approx(areas, rel=0.02)
    assert lungs.litres == pytest.approx(areas.sum() * thorax.spacing[0] / 1e6, rel=0.02)
    assert 3 < lungs.litres < 5
    assert lungs.side_shares == pytest.approx((0.5, 0.5), abs=0.05)


def test_the_trachea_and_the_air_around_the_body_are_no_lung(
    thorax: Volume, lungs: LungMask
) -> None:
    top = 42
    middle = thorax.hu[top, :, 118:138]
    assert (middle < -950).sum() > 50
    assert not lungs.mask[top, :, 118:138].any()
    assert not lungs.mask[:, :30].any()
    assert not lungs.mask[:, -30:].any()


def test_vessels_and_hazy_opacities_inside_the_lungs_belong_to_them(
    thorax: Volume, lungs: LungMask
) -> None:
    hazy = (thorax.hu > -700) & (thorax.hu < -420)
    inside = hazy & (np.roll(aerated(thorax), 6, axis=2) & np.roll(aerated(thorax), -6, axis=2))
    assert inside.sum() > 1000
    assert (inside & lungs.mask).sum() > 0.9 * inside.sum()


def test_a_field_of_view_that_cuts_the_chest_wall_keeps_both_lungs(thorax: Volume) -> None:
    cut = np.ascontiguousarray(thorax.hu[:, :, 48:-48])
    lungs = find_lungs(replace(thorax, hu=cut))
    assert (cut[24, 100:140, [0, -1]] < -320).all()
    assert lungs.notes == ()
    truth = aerated(thorax)[:, :, 48:-48]
    assert (lungs.mask & truth).sum() > 0.95 * truth.sum()
    assert not lungs.mask[:, :30].any()


def test_one_lung_is_found_and_named_as_one(thorax: Volume) -> None:
    hu = thorax.hu.copy()
    half = hu[:, :, 128:]
    half[(half > -920) & (half < -500)] = 40
    lungs = find_lungs(replace(thorax, hu=hu))
    assert lungs.refusal is None
    assert any(note.startswith("one lung only: ") for note in lungs.notes)
    assert lungs.side_shares[0] > 0.9


def test_a_part_of_the_lungs_is_found_and_named_as_a_part(thorax: Volume) -> None:
    part = slice(20, 23)
    few = replace(thorax, hu=thorax.hu[part], positions=thorax.positions[part])
    lungs = find_lungs(few)
    assert lungs.refusal is None
    assert any("covers them in part" in note for note in lungs.notes)
    assert choose_slices(few, lungs, count=8) == [0, 1, 2]


def test_a_single_slice_is_enough_to_find_lungs(thorax: Volume) -> None:
    one = replace(thorax, hu=thorax.hu[24:25], positions=thorax.positions[24:25])
    lungs = find_lungs(one)
    assert lungs.areas_mm2[0] > 20_000
    assert lungs.litres == pytest.approx(lungs.areas_mm2[0] * 5 / 1e6)
    assert choose_slices(one, lungs, count=3) == [0]


@pytest.mark.parametrize("filling", [45.0, -1000.0])
def test_a_body_without_lung_is_refused_with_the_volume(
    thorax: Volume, lungs: LungMask, filling: float
) -> None:
    """Soft tissue throughout, and gas as in a bowel."""
    hu = np.where(lungs.mask, np.float32(filling), thorax.hu)
    none = find_lungs(replace(thorax, hu=hu))
    assert none.refusal == "no lungs found: volume 0.0 l"
    assert not none.mask.any()
    assert choose_slices(thorax, none, count=4) == []


def test_a_head_holds_no_lungs(tmp_path: Path) -> None:
    head = Path(str(get_testdata_file("693_UNCI.dcm")))
    volume = build_volume(extend_series([head], tmp_path, 6, seed="h", gap_mm=5.0))
    assert find_lungs(volume).refusal == "no lungs found: volume 0.0 l"


@pytest.mark.parametrize("value", [-1000.0, -2048.0, 40.0])
def test_a_volume_without_a_body_is_refused(value: float, thorax: Volume) -> None:
    blank = replace(thorax, hu=np.full_like(thorax.hu, value))
    assert find_lungs(blank).refusal == "no lungs found: volume 0.0 l"
    assert body_box(blank.hu[0]) == (0, 0, 256, 256)


def test_slices_are_chosen_evenly_where_there_is_much_lung(thorax: Volume, lungs: LungMask) -> None:
    chosen = choose_slices(thorax, lungs, count=10)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 10
    assert lungs.areas_mm2[chosen].min() >= 0.3 * lungs.areas_mm2.max()
    assert set(np.diff(chosen)) <= {2, 3, 4}
    assert chosen == choose_slices(thorax, lungs, count=10)
    with pytest.raises(ValueError, match="count 0"):
        choose_slices(thorax, lungs, count=0)


def test_a_tilted_gantry_does_not_move_the_mask_off_the_lungs(thorax: Volume) -> None:
    """The same slices under a tilt of 15 degrees: each still gets its own lungs."""
    tilted = replace(
        thorax,
        orientation=(1.0, 0.0, 0.0, 0.0, float(np.cos(0.26)), float(-np.sin(0.26))),
        drift=(0.0, float(np.tan(0.26))),
    )
    lungs = find_lungs(tilted)
    truth = aerated(thorax)
    assert (lungs.mask & truth).sum() > 0.9 * truth.sum()
    assert (lungs.mask & (thorax.hu > 300)).sum() < 0.02 * lungs.mask.sum()


def test_the_body_box_leaves_out_air_and_table(thorax: Volume) -> None:
    left, top, right, bottom = body_box(thorax.hu[24])
    pixel = thorax.spacing[1]
    assert (right - left) * pixel == pytest.approx(344, abs=8)
    assert (bottom - top) * pixel == pytest.approx(244, abs=8)
    assert (thorax.hu[24, bottom + 4 :] > -400).any()


def test_forty_eight_slices_of_full_size_take_less_than_two_seconds_of_one_core(
    tmp_path: Path,
) -> None:
    volume = build_volume(write_thorax_phantom(tmp_path, seed="t", now=NOW, slices=48))
    started = time.process_time()
    assert find_lungs(volume).refusal is None
    assert time.process_time() - started < 2.0


@needs_real
@pytest.mark.parametrize(
    ("group", "least_mm2", "most_mm2"),
    [("contrast_1mm", 15_000, 22_000), ("lung_base", 12_000, 19_000)],
)
def test_lungs_are_found_in_a_few_real_slices(
    group: str, least_mm2: float, most_mm2: float
) -> None:
    volume = build_volume(sorted(REAL.glob(f"{group}*.dcm")))
    lungs = find_lungs(volume)
    assert lungs.refusal is None
    assert lungs.areas_mm2.min() > least_mm2
    assert lungs.areas_mm2.max() < most_mm2
    assert min(lungs.side_shares) > 0.3
    inside = volume.hu[lungs.mask]
    assert -900 < float(np.median(inside)) < -600
    left, top, right, bottom = body_box(volume.hu[0])
    assert right - left > 400
    assert bottom - top > 350


@needs_real
def test_a_long_series_of_real_slices_gives_whole_lungs(tmp_path: Path) -> None:
    source = sorted(REAL.glob("contrast*.dcm"))
    volume = build_volume(extend_series(source, tmp_path, 40, seed="x", gap_mm=5.0))
    lungs = find_lungs(volume)
    assert lungs.refusal is None
    assert 3 < lungs.litres < 4.5
    assert len(choose_slices(volume, lungs, count=16)) == 16
