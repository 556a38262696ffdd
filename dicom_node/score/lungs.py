"""Find the lungs in a CT volume and the slices that show them: thresholds and shapes, no network.

Works on a coarse, straightened copy (`dicom_node.score.resample`): the answer steers which slices
are read and how they are cropped, it is no measurement for a report.
"""

# mypy: allow-untyped-calls
# (SimpleITK has no type hints)

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from dicom_node.score.resample import RegularImage, regular_image
from dicom_node.score.volume import Volume

WORKING_MM = 2.5
"""Resolution of the search: a tenth of the trachea's width, a hundredth of a lung's height."""
TISSUE_HU = -400.0
"""Above: body wall and organs; below: air and lung."""
LUNG_HU = -320.0
"""Upper limit of aerated lung, ground glass included (usual for lung segmentation)."""
GAS_HU = -960.0
"""A region of this median is gas in a bowel or a stomach: lung tissue weighs more."""
REGION_SHARE = 0.04
"""Smallest share of the lung volume that a separate region must have to be lung."""
SMALLEST_CUT_PIXELS = 50
"""Pieces at the edge of the image below this (3 cm2) are folds of skin, not lung."""
SMALLEST_REGION_ML = 1.0
AIRWAY_MM2 = 700.0
"""Larger than any trachea (25 x 27 mm)."""
AIRWAY_CONTRAST_HU = 60.0
"""An airway is darker than the lungs by at least this."""
MIDLINE_SHARE = 0.17
"""Half width of the strip around the middle of the body where an airway may be, of body width."""
CLOSING_MM = 8.0
"""Vessels and small opacities up to twice this size count as lung."""
SMALLEST_LUNG_MM2 = 2000.0
"""Largest lung cross section below this: no lungs (sinuses and bowel gas are smaller)."""
WHOLE_LUNGS_LITRES = (0.8, 12.0)
"""Both lungs of an adult between full expiration and a tall man's total capacity with emphysema."""
ONE_SIDE_SHARE = 0.1
"""A side with less than this share of the lung volume is missing, collapsed or full of fluid."""
SUBSTANTIAL_SHARE = 0.3
"""A slice shows substantial lung if it has this share of the largest cross section."""


@dataclass(frozen=True, slots=True, eq=False)
class LungMask:
    """Where the lungs are.

    Attributes
    ----------
    mask
        (slices, rows, columns) bool, aligned with `Volume.hu`.
    areas_mm2
        (slices,) float64, lung cross section of each original slice.
    litres
        Volume of the lungs as far as the series covers them.
    side_shares
        Shares of that volume at the lower and at the higher column indices of the body's middle;
        both 0 if no lungs were found.
    notes
        What is implausible: one lung only, an unusual volume.
    refusal
        Why there are no lungs, else None.
    """

    mask: NDArray[np.bool_]
    areas_mm2: NDArray[np.float64]
    litres: float
    side_shares: tuple[float, float]
    notes: tuple[str, ...]
    refusal: str | None


def find_lungs(volume: Volume) -> LungMask:
    """Find the lungs of a CT volume in Hounsfield units.

    Never raises for want of lungs: `LungMask.refusal` holds the reason.
    """
    regular = regular_image(volume, coarsest_mm=WORKING_MM)
    body = _body(regular.image)
    hu = sitk.GetArrayViewFromImage(regular.image)
    air = sitk.GetImageFromArray(_air_in_body(body, hu).astype(np.uint8))
    air.CopyInformation(regular.image)
    lungs = _without_airways(_lung_regions(air, hu), hu, body)
    stack = regular.to_stack(_closed(lungs, regular.image))
    return _judged(stack, _middle(body)[0] if stack.any() else 0.0, regular, volume)


def choose_slices(volume: Volume, lungs: LungMask, *, count: int) -> list[int]:
    """Choose up to `count` slices with substantial lung, evenly spread through the lungs.

    Returns
    -------
    list of int
        Ascending indices of original slices; all substantial ones if there are fewer than
        `count`; empty if no lungs were found. The same input gives the same answer.

    Raises
    ------
    ValueError
        `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count {count} must be at least 1")
    if lungs.refusal is not None:
        return []
    rich = np.flatnonzero(lungs.areas_mm2 >= SUBSTANTIAL_SHARE * lungs.areas_mm2.max())
    if len(rich) <= count:
        return [int(index) for index in rich]
    places = volume.positions[rich]
    targets = places[0] + (np.arange(count) + 0.5) / count * (places[-1] - places[0])
    chosen: list[int] = []
    for target in targets:
        free = [index for index in rich if index not in chosen]
        chosen.append(int(min(free, key=lambda index: abs(volume.positions[index] - target))))
    return sorted(chosen)


def body_box(hu_slice: NDArray[np.float32]) -> tuple[int, int, int, int]:
    """Find the body on one axial slice: (left, top, right, bottom), right and bottom exclusive.

    Parameters
    ----------
    hu_slice
        (rows, columns) float32, Hounsfield units. Without a body the box is the whole slice.
    """
    rows, columns = hu_slice.shape
    step = max(1, min(rows, columns) // 128)
    tissue = sitk.GetImageFromArray((hu_slice[::step, ::step] > TISSUE_HU).astype(np.uint8))
    tissue = sitk.BinaryMorphologicalOpening(tissue, [1, 1], sitk.sitkBall)
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(tissue), sortByObjectSize=True)
    found = np.argwhere(sitk.GetArrayViewFromImage(parts) == 1)
    if not len(found):
        return 0, 0, columns, rows
    (top, left), (bottom, right) = found.min(axis=0) * step, (found.max(axis=0) + 1) * step
    return int(left), int(top), min(int(right), columns), min(int(bottom), rows)


def _body(image: sitk.Image) -> sitk.Image:
    """Largest piece of tissue; the opening parts it from table, blanket and cables."""
    tissue = sitk.BinaryMorphologicalOpening(image > TISSUE_HU, [1, 1, 0], sitk.sitkBall)
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(tissue), sortByObjectSize=True)
    body: sitk.Image = parts == 1
    return body


def _fill_planes(mask: sitk.Image) -> sitk.Image:
    """Fill holes plane by plane: in 3-D the lungs are open through mouth and cut ends."""
    planes = [sitk.GetImageFromArray(plane) for plane in sitk.GetArrayViewFromImage(mask)]
    filled = sitk.GetImageFromArray(
        np.stack([sitk.GetArrayFromImage(sitk.BinaryFillhole(plane)) for plane in planes])
    )
    filled.CopyInformation(mask)
    return filled


def _air_in_body(body: sitk.Image, hu: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Air that the body encloses, and lung that a small field of view cuts open: (z, y, x) bool."""
    closed = sitk.GetArrayFromImage(_fill_planes(body)) > 0
    air = hu < LUNG_HU
    inside: NDArray[np.bool_] = closed & air
    for plane, outside in enumerate(air & ~closed):
        parts = sitk.ConnectedComponent(sitk.GetImageFromArray(outside.astype(np.uint8)))
        labels = sitk.GetArrayViewFromImage(parts)
        for label in np.flatnonzero(np.bincount(labels.ravel()) >= SMALLEST_CUT_PIXELS):
            part = labels == label
            if label and float(np.median(hu[plane][part])) > GAS_HU:
                inside[plane] |= part
    return inside


def _lung_regions(air: sitk.Image, hu: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Connected regions inside the body that are large enough and no mere gas: (z, y, x) bool."""
    parts = sitk.ConnectedComponent(sitk.BinaryMorphologicalOpening(air, [1, 1, 0], sitk.sitkCross))
    labels = sitk.GetArrayViewFromImage(parts)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    millilitres = sizes * float(np.prod(air.GetSpacing())) / 1000
    large = np.flatnonzero(millilitres >= SMALLEST_REGION_ML)
    lung = [label for label in large if float(np.median(hu[labels == label])) > GAS_HU]
    if not lung:
        return np.zeros(labels.shape, np.bool_)
    smallest = REGION_SHARE * max(sizes[label] for label in lung)
    kept: NDArray[np.bool_] = np.isin(labels, [label for label in lung if sizes[label] >= smallest])
    return kept


def _without_airways(
    lungs: NDArray[np.bool_], hu: NDArray[np.float32], body: sitk.Image
) -> NDArray[np.bool_]:
    """Remove trachea and main bronchi: small, central and darker than the lungs, in each plane."""
    if not lungs.any():
        return lungs
    darkest = float(np.median(hu[lungs])) - AIRWAY_CONTRAST_HU
    middle, width = _middle(body)
    width_mm, height_mm, _ = body.GetSpacing()
    largest = AIRWAY_MM2 / (width_mm * height_mm)
    kept = lungs.copy()
    for plane in np.flatnonzero(lungs.any(axis=(1, 2))):
        parts = sitk.ConnectedComponent(sitk.GetImageFromArray(lungs[plane].astype(np.uint8)))
        labels = sitk.GetArrayViewFromImage(parts)
        for label in np.flatnonzero(np.bincount(labels.ravel()) <= largest):
            part = labels == label
            off_middle = abs(float(np.nonzero(part)[1].mean()) - middle)
            dark = float(np.median(hu[plane][part])) < darkest
            if label and dark and off_middle < MIDLINE_SHARE * width:
                kept[plane][part] = False
    return kept


def _middle(body: sitk.Image) -> tuple[float, float]:
    """Middle column and width of the body, in pixels."""
    across = np.flatnonzero(sitk.GetArrayViewFromImage(body).any(axis=(0, 1)))
    return float(across[0] + across[-1]) / 2, float(across[-1] - across[0] + 1)


def _closed(lungs: NDArray[np.bool_], image: sitk.Image) -> sitk.Image:
    """Close the mask over vessels and opacities that the threshold left out."""
    mask = sitk.GetImageFromArray(lungs.astype(np.uint8))
    mask.CopyInformation(image)
    radius = [max(1, round(CLOSING_MM / mm)) for mm in image.GetSpacing()[:2]]
    closed = sitk.BinaryMorphologicalClosing(mask, [*radius, 0], sitk.sitkBall)
    return _fill_planes(closed)


def _judged(
    stack: NDArray[np.bool_], middle: float, regular: RegularImage, volume: Volume
) -> LungMask:
    """Measure the lungs and say what is implausible about them."""
    _, row_mm, column_mm = volume.spacing
    pixel_mm2 = row_mm * column_mm * regular.shrink**2
    areas = (stack.sum(axis=(1, 2)) * pixel_mm2)[list(regular.planes)]
    litres = float(np.dot(areas, _thickness(volume))) / 1e6
    if areas.max(initial=0.0) < SMALLEST_LUNG_MM2:
        return LungMask(
            mask=np.zeros(regular.shape, np.bool_),
            areas_mm2=np.zeros(len(areas)),
            litres=0.0,
            side_shares=(0.0, 0.0),
            notes=(),
            refusal=f"no lungs found: volume {litres:.1f} l",
        )
    columns = stack.sum(axis=(0, 1))
    low = float(columns[: round(middle)].sum() / columns.sum())
    notes = []
    least, most = WHOLE_LUNGS_LITRES
    if litres < least:
        notes.append(f"lungs of {litres:.2f} l: the series covers them in part")
    if litres > most:
        notes.append(f"lungs of {litres:.1f} l: larger than plausible, the mask may be wrong")
    if min(low, 1 - low) < ONE_SIDE_SHARE:
        notes.append(f"one lung only: {max(low, 1 - low):.0%} of the lung volume is on one side")
    return LungMask(
        mask=regular.to_source(stack),
        areas_mm2=areas,
        litres=litres,
        side_shares=(low, 1 - low),
        notes=tuple(notes),
        refusal=None,
    )


def _thickness(volume: Volume) -> NDArray[np.float64]:
    """Millimetres that each slice stands for: half way to its neighbours."""
    if len(volume.positions) < 2:
        return np.full(1, volume.spacing[0])
    inner = np.gradient(volume.positions)
    return np.asarray(inner, np.float64)
