"""Planted defects of CT series: each is seen, said, and does not move a slice from its source."""

# mypy: allow-untyped-calls
# (SimpleITK has no type hints)

from __future__ import annotations

import os
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

from dicom_node.errors import BadInput
from dicom_node.score.resample import AIR_HU, regular_image
from dicom_node.score.volume import Volume, build_volume

SIZE = 16
GAP = 2.5
ABSENT = object()
DATA = Path(os.environ.get("DICOM_NODE_DATA", Path(__file__).parents[4] / "shared" / "data"))
REAL = DATA / "dicom" / "ct_chest"


def save(data: Dataset, path: Path) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = data.SOPClassUID
    meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta = meta
    data.save_as(path, enforce_file_format=True)
    return path


def write_slice(folder: Path, index: int, **changes: Any) -> Path:
    """A slice whose pixels all hold its own index in HU."""
    data = Dataset()
    data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = f"2.25.{1000 + index}"
    data.StudyInstanceUID, data.SeriesInstanceUID = "2.25.1", "2.25.2"
    data.FrameOfReferenceUID = "2.25.3"
    data.Modality = "CT"
    data.InstanceNumber = index + 1
    data.ImagePositionPatient = [-10.0, -20.0, 100 + GAP * index]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.PixelSpacing = [0.7, 0.7]
    data.SliceThickness = GAP
    data.Rows = data.Columns = SIZE
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, -1024, "HU"
    for keyword, value in changes.items():
        if value is ABSENT:
            delattr(data, keyword)
        else:
            setattr(data, keyword, value)
    if "PixelData" not in changes:
        stored = (index - float(data.get("RescaleIntercept", 0))) / float(
            data.get("RescaleSlope", 1)
        )
        data.PixelData = np.full((data.Rows, data.Columns), stored, "<i2").tobytes()
    return save(data, folder / f"{index:03d}.dcm")


def series(
    folder: Path, count: int = 24, changes: Callable[[int], dict[str, Any]] = lambda _: {}
) -> list[Path]:
    paths = [write_slice(folder, index, **changes(index)) for index in range(count)]
    random.Random(1).shuffle(paths)
    return paths


def said(volume: Volume, words: str) -> bool:
    return any(words in note for note in volume.notes)


def sources(volume: Volume) -> list[int]:
    """Which written slice each slice of the volume is, by its UID and by its pixels."""
    by_uid = [int(uid.removeprefix("2.25.")) - 1000 for uid in volume.sop_instance_uids]
    assert by_uid == [round(float(plane.mean())) for plane in volume.hu]
    return by_uid


def test_a_sound_series_is_sorted_along_the_normal_without_a_note(tmp_path: Path) -> None:
    volume = build_volume(series(tmp_path))
    assert sources(volume) == list(range(24))
    assert volume.notes == ()
    assert volume.hu.dtype == np.float32
    assert volume.hu.shape == (24, SIZE, SIZE)
    assert volume.spacing == pytest.approx((GAP, 0.7, 0.7))
    assert volume.origin == (-10.0, -20.0, 100.0)
    assert volume.instance_numbers == tuple(range(1, 25))
    assert set(volume.frame_numbers) == {None}
    assert volume.plane == "axial"


def test_the_position_decides_the_order_even_if_instance_numbers_run_the_other_way(
    tmp_path: Path,
) -> None:
    volume = build_volume(series(tmp_path, changes=lambda i: {"InstanceNumber": 100 - i}))
    assert sources(volume) == list(range(24))
    assert volume.instance_numbers[0] == 100


def test_a_feet_first_series_is_sorted_along_its_own_normal(tmp_path: Path) -> None:
    flipped = [-1, 0, 0, 0, 1, 0]
    volume = build_volume(series(tmp_path, changes=lambda _: {"ImageOrientationPatient": flipped}))
    assert sources(volume) == list(range(23, -1, -1))
    assert volume.notes == ()


def test_missing_slices_are_counted_and_placed(tmp_path: Path) -> None:
    paths = [path for path in series(tmp_path) if path.stem not in {"010", "011"}]
    volume = build_volume(paths)
    assert said(volume, "about 2 slices missing: gaps at 122.5 to 130.0 mm where 2.50 mm")
    assert len(volume.sop_instance_uids) == 22


def test_irregular_spacing_is_reported(tmp_path: Path) -> None:
    def move(index: int) -> dict[str, Any]:
        return {"ImagePositionPatient": [-10, -20, 100 + GAP * index + 0.6 * (index == 7)]}

    assert said(
        build_volume(series(tmp_path, changes=move)), "irregular slice spacing: 1.90 to 3.10"
    )


def test_of_two_slices_at_one_position_the_lower_instance_number_stays(tmp_path: Path) -> None:
    paths = series(tmp_path)
    extra = write_slice(
        tmp_path, 50, ImagePositionPatient=[-10, -20, 100 + GAP * 4], InstanceNumber=900
    )
    volume = build_volume([extra, *paths])
    assert said(volume, "1 slice at a position that another slice has already")
    assert sources(volume) == list(range(24))
    assert build_volume([*paths, extra]).sop_instance_uids == volume.sop_instance_uids


def test_the_tilt_of_a_gantry_is_measured_and_reported(tmp_path: Path) -> None:
    volume = build_volume(series(tmp_path, changes=tilted(15.0)))
    assert said(volume, "gantry tilt of 15.0 degrees")
    assert sources(volume) == list(range(24))
    assert volume.spacing[0] == pytest.approx(GAP * np.cos(np.radians(15)))


def tilted(degrees: float) -> Callable[[int], dict[str, Any]]:
    """The table moves along z, the plane leans: as a tilted gantry writes it."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    orientation = [1, 0, 0, 0, round(float(cosine), 6), round(float(-sine), 6)]
    return lambda _: {"ImageOrientationPatient": orientation}


def test_positions_that_run_within_the_plane_are_refused(tmp_path: Path) -> None:
    def sideways(index: int) -> dict[str, Any]:
        return {"ImagePositionPatient": [10.0 * index, 0, 1.0 * index]}

    with pytest.raises(BadInput, match="position and orientation contradict"):
        build_volume(series(tmp_path, changes=sideways))


def test_a_series_longer_than_any_scanner_is_refused(tmp_path: Path) -> None:
    far = {"ImagePositionPatient": [-10, -20, 1e7]}
    with pytest.raises(BadInput, match="the slices span 9999900 mm, more than 2500"):
        build_volume(series(tmp_path, 5, lambda i: far if i == 2 else {}))


def test_slices_shifted_sideways_are_reported(tmp_path: Path) -> None:
    def jump(index: int) -> dict[str, Any]:
        return {"ImagePositionPatient": [-10 + 30 * (index > 11), -20, 100 + GAP * index]}

    volume = build_volume(series(tmp_path, changes=jump))
    assert said(volume, "shifted sideways against one another by up to 30 mm")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "mixed orientation: 3 of 24"),
        ({"PixelSpacing": [0.9, 0.9]}, "mixed pixel spacing: 3 of 24"),
        ({"PixelSpacing": [0, 0]}, "mixed pixel spacing: 3 of 24"),
        ({"Rows": 8, "Columns": 8}, "mixed matrix size: 3 of 24"),
        ({"FrameOfReferenceUID": "2.25.9"}, "mixed frame of reference: 3 of 24"),
        ({"ImagePositionPatient": ABSENT}, "3 slices without Image Position (0020,0032) left out"),
    ],
)
def test_slices_of_another_form_are_left_out_and_counted(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    volume = build_volume(series(tmp_path, changes=lambda i: change if i >= 21 else {}))
    assert said(volume, words)
    assert sources(volume) == list(range(21))


def test_a_series_without_a_common_form_is_refused(tmp_path: Path) -> None:
    paths = series(tmp_path, 12, lambda i: {"PixelSpacing": [0.5 + i % 3 / 10] * 2})
    with pytest.raises(BadInput, match="mixed pixel spacing: no pixel spacing is shared by half"):
        build_volume(paths)


def test_each_slice_is_converted_with_its_own_rescale_and_the_mix_is_reported(
    tmp_path: Path,
) -> None:
    mixed = build_volume(series(tmp_path, changes=lambda i: {"RescaleIntercept": -1000 - i % 2}))
    assert said(mixed, "mixed Rescale Slope or Intercept")
    assert sources(mixed) == list(range(24))


def test_absent_rescale_and_a_foreign_unit_are_reported(tmp_path: Path) -> None:
    plain = {"RescaleSlope": ABSENT, "RescaleIntercept": ABSENT, "RescaleType": ABSENT}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    without = build_volume(series(tmp_path / "a", changes=lambda _: plain))
    assert said(without, "no Rescale Slope and Intercept")
    odd = build_volume(series(tmp_path / "b", changes=lambda _: {"RescaleType": "US"}))
    assert said(odd, "Rescale Type (0028,1054) is not HU")


@pytest.mark.parametrize("spacing", [[0, 0], [0.7, 0], ABSENT, None, [-1, -1], [70, 70]])
def test_without_a_usable_pixel_spacing_the_series_is_refused(tmp_path: Path, spacing: Any) -> None:
    paths = series(tmp_path, 4, lambda _: {"PixelSpacing": spacing})
    with pytest.raises(BadInput, match=r"Pixel Spacing \(0028,0030\)"):
        build_volume(paths)


def test_without_positions_the_slice_location_orders_the_slices(tmp_path: Path) -> None:
    def changes(index: int) -> dict[str, Any]:
        return {
            "ImagePositionPatient": ABSENT,
            "ImageOrientationPatient": ABSENT,
            "SliceLocation": 7 * index,
            "InstanceNumber": None,
            "Modality": ABSENT,
            "FrameOfReferenceUID": ABSENT,
        }

    volume = build_volume(series(tmp_path, changes=changes))
    assert said(volume, "slices are ordered by Slice Location")
    assert said(volume, "no usable Image Orientation")
    assert sources(volume) == list(range(24))
    assert volume.spacing[0] == 7
    assert set(volume.instance_numbers) == {None}


def test_without_locations_the_instance_number_orders_the_slices(tmp_path: Path) -> None:
    volume = build_volume(series(tmp_path, changes=lambda _: {"ImagePositionPatient": [0, 0, 0]}))
    assert said(volume, "slices are ordered by Instance Number")
    assert sources(volume) == list(range(24))
    assert volume.spacing[0] == GAP


def test_slices_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    bare = {"ImagePositionPatient": ABSENT, "InstanceNumber": None}
    with pytest.raises(BadInput, match="the slices cannot be ordered"):
        build_volume(series(tmp_path, 3, lambda _: bare))


def test_few_slices_are_reported_and_too_few_refused(tmp_path: Path) -> None:
    paths = series(tmp_path, 5)
    assert said(build_volume(paths), "only 5 slices")
    with pytest.raises(BadInput, match="has 5 slices at distinct positions; at least 6"):
        build_volume(paths, minimum_slices=6)


def test_a_coronal_series_says_so(tmp_path: Path) -> None:
    def coronal(index: int) -> dict[str, Any]:
        return {
            "ImageOrientationPatient": [1, 0, 0, 0, 0, -1],
            "ImagePositionPatient": [0, 2 * index, 0],
        }

    volume = build_volume(series(tmp_path, changes=coronal))
    assert volume.plane == "coronal"
    assert said(volume, "the slices are coronal, not axial")


def test_one_undecodable_slice_is_left_out_but_a_damaged_series_is_refused(tmp_path: Path) -> None:
    short = {"PixelData": b"\0\0"}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    volume = build_volume(series(tmp_path / "a", changes=lambda i: short if i == 5 else {}))
    assert said(volume, "1 slice left out, not decodable")
    assert said(volume, "about 1 slice missing")
    assert sources(volume) == [index for index in range(24) if index != 5]
    with pytest.raises(BadInput, match="4 of 24 slices cannot be decoded"):
        build_volume(series(tmp_path / "b", changes=lambda i: short if i < 4 else {}))


def test_a_file_that_is_not_dicom_is_refused_without_naming_it(tmp_path: Path) -> None:
    bad = tmp_path / "SECRET^NAME.dcm"
    bad.write_bytes(b"not DICOM at all")
    with pytest.raises(BadInput, match="not readable DICOM") as caught:
        build_volume([*series(tmp_path, 3), bad])
    assert "SECRET" not in str(caught.value)


def test_a_series_beyond_the_memory_bound_is_thinned_with_a_note(tmp_path: Path) -> None:
    volume = build_volume(series(tmp_path), maximum_voxels=10 * SIZE * SIZE)
    assert sources(volume) == list(range(0, 24, 3))
    assert volume.spacing[0] == 3 * GAP
    assert said(volume, "24 slices: every 3. one was read to bound memory")


def test_a_pool_of_processes_gives_the_same_volume(tmp_path: Path) -> None:
    short = {"PixelData": b"\0\0"}
    paths = series(tmp_path, 12, lambda i: short if i == 3 else {})
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pooled = build_volume(paths, executor=pool)
    plain = build_volume(paths)
    assert (pooled.hu == plain.hu).all()
    assert pooled.notes == plain.notes
    assert sources(pooled) == [0, 1, 2, *range(4, 12)]


def enhanced(folder: Path, order: list[int]) -> Path:
    """An Enhanced CT file whose frames lie at the given places, each with its own rescale."""
    data = pydicom.dcmread(write_slice(folder, 0, InstanceNumber=7))
    data.SOPClassUID = EnhancedCTImageStorage
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(data, keyword)
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType", "SliceThickness"):
        delattr(data, keyword)
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [0.7, 0.7], GAP
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    data.SharedFunctionalGroupsSequence = [shared]
    data.PerFrameFunctionalGroupsSequence = []
    stored = []
    for frame, place in enumerate(order):
        position, rescale, group = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [-10, -20, 100 + GAP * place]
        rescale.RescaleSlope, rescale.RescaleIntercept = 1, -1000 - frame % 2
        rescale.RescaleType = "HU"
        group.PlanePositionSequence = [position]
        group.PixelValueTransformationSequence = [rescale]
        data.PerFrameFunctionalGroupsSequence.append(group)
        stored.append(np.full((SIZE, SIZE), place + 1000 + frame % 2, "<i2"))
    data.NumberOfFrames = len(order)
    data.PixelData = np.stack(stored).tobytes()
    return save(data, folder / "enhanced.dcm")


def test_the_frames_of_an_enhanced_ct_are_sorted_by_their_own_positions(tmp_path: Path) -> None:
    order = [3, 0, 4, 1, 2]
    volume = build_volume([enhanced(tmp_path, order)])
    assert [round(float(plane.mean())) for plane in volume.hu] == [0, 1, 2, 3, 4]
    assert volume.frame_numbers == (2, 4, 5, 1, 3)
    assert set(volume.instance_numbers) == {7}
    assert set(volume.sop_instance_uids) == {"2.25.1000"}
    assert volume.spacing == pytest.approx((GAP, 0.7, 0.7))
    assert said(volume, "mixed Rescale")


def test_an_enhanced_ct_whose_frames_are_not_all_described_is_refused(tmp_path: Path) -> None:
    path = enhanced(tmp_path, [0, 1, 2])
    data = pydicom.dcmread(path)
    data.PerFrameFunctionalGroupsSequence = data.PerFrameFunctionalGroupsSequence[:2]
    with pytest.raises(BadInput, match=r"Number of Frames \(0028,0008\) is 3"):
        build_volume([save(data, path)])


def test_the_regular_image_bridges_a_gap_and_names_the_nearest_original_slice(
    tmp_path: Path,
) -> None:
    gone = {"005", "006"}
    volume = build_volume([path for path in series(tmp_path, 12) if path.stem not in gone])
    regular = regular_image(volume)
    assert regular.image.GetSize() == (SIZE, SIZE, 12)
    assert regular.image.GetSpacing() == pytest.approx((0.7, 0.7, GAP))
    assert regular.image.GetOrigin() == pytest.approx((-10, -20, 100))
    means = sitk.GetArrayFromImage(regular.image).mean(axis=(1, 2))
    assert means == pytest.approx(np.arange(12), abs=1e-4)
    uids = [volume.sop_instance_uids[index] for index in regular.source_slices]
    assert [int(uid[-2:]) for uid in uids] == [0, 1, 2, 3, 4, 4, 7, 7, 8, 9, 10, 11]
    assert regular.planes == (0, 1, 2, 3, 4, 7, 8, 9, 10, 11)


def rod(index: int, degrees: float) -> dict[str, Any]:
    """A rod along the table's axis: at a fixed place of the patient in every tilted slice."""
    stored = np.full((SIZE, SIZE), 24, "<i2")
    offset = round(float(GAP * index * np.sin(np.radians(degrees)) / 0.7))
    stored[11 - offset : 14 - offset, 8] = 2024
    return {**tilted(degrees)(index), "PixelData": stored.tobytes()}


def test_a_tilted_stack_is_sheared_straight_and_masks_find_back(tmp_path: Path) -> None:
    degrees, count = 20.0, 6
    volume = build_volume(series(tmp_path, count, lambda index: rod(index, degrees)))
    truth = np.stack([plane > 500 for plane in volume.hu])
    regular = regular_image(volume)
    for index in range(count):
        row = int(np.argwhere(truth[index])[1][0])
        down = 0.7 * row * np.array(volume.orientation[3:])
        place = np.array(volume.origin) + np.array([0.7 * 8, 0, GAP * index]) + down
        value = regular.image.EvaluateAtPhysicalPoint(place.tolist(), sitk.sitkLinear)
        assert value == pytest.approx(1000, abs=1)
    assert sitk.GetArrayFromImage(regular.image).min() == AIR_HU
    back = regular.to_source(regular.to_stack(regular.image > 0))
    assert back.shape == volume.hu.shape
    assert (back & truth).sum() >= 2 * count
    assert (back & ~truth).sum() <= count


def test_averaging_keeps_the_place_of_a_point_in_the_patient(tmp_path: Path) -> None:
    stored = np.full((SIZE, SIZE), 24, "<i2")
    stored[4:8, 8:12] = 1024
    volume = build_volume(series(tmp_path, 8, lambda _: {"PixelData": stored.tobytes()}))
    regular = regular_image(volume, coarsest_mm=2.9)
    assert regular.shrink == 4
    assert regular.image.GetSpacing() == pytest.approx((2.8, 2.8, 2.9))
    centre = [-10 + 0.7 * 9.5, -20 + 0.7 * 5.5, 100.0]
    assert regular.image.TransformPhysicalPointToIndex(centre) == (2, 1, 0)
    assert regular.image[2, 1, 0] == 0
    back = regular.to_source(regular.to_stack(regular.image > -500))
    assert (back == (volume.hu > -500)).all()


@pytest.mark.skipif(not REAL.is_dir(), reason="the real slices are not here")
@pytest.mark.parametrize(("group", "gap"), [("contrast_1mm", 1.0), ("lung_base", 1.0)])
def test_the_sparse_headers_of_real_slices_are_enough(group: str, gap: float) -> None:
    volume = build_volume(sorted(REAL.glob(f"{group}*.dcm")))
    assert volume.spacing[0] == pytest.approx(gap)
    assert (np.diff(volume.positions) > 0).all()
    assert volume.hu.min() < -900
    assert volume.hu.max() > 500
    assert all(note.startswith("only") for note in volume.notes)
