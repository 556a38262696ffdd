"""From stored values to modality values, and from those to what a person is shown (PS3.3 C.11)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi

from dicom_node.errors import BadInput

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_AIR_HU = -1000.0
_SIGMOID_STEEPNESS = -4.0
_FLAT = 1e-3
"""Spread in [0, 1] below which a window shows nothing although the image holds something."""
_LUT_ERRORS = (ValueError, TypeError, AttributeError, LookupError, NotImplementedError)


def padding_mask(stored: NDArray[Any], header: Dataset) -> BoolArray | None:
    """Pixels that are Pixel Padding (0028,0120) to Pixel Padding Range Limit (0028,0121).

    Returns
    -------
    mask
        (rows, columns) bool, or None if the header declares no padding or all would be padding.
    """
    first = _integer(header.get("PixelPaddingValue"))
    if first is None:
        return None
    last = _integer(header.get("PixelPaddingRangeLimit"))
    low, high = sorted((_signed(first, header), _signed(first if last is None else last, header)))
    mask: BoolArray = (stored >= low) & (stored <= high)
    return mask if mask.any() and not mask.all() else None


def _signed(value: int, header: Dataset) -> int:
    """Undo a padding value that was read as unsigned although the pixels are signed."""
    half = 1 << (int(header.BitsAllocated) - 1)
    return (
        value - 2 * half if int(header.get("PixelRepresentation", 0)) and value >= half else value
    )


def modality_values(stored: NDArray[Any], header: Dataset, frame: int) -> FloatArray:
    """Apply the Modality LUT or the rescale (PS3.3 C.11.1).

    Parameters
    ----------
    stored
        (rows, columns) integers.
    frame
        0-based index into the per-frame functional groups of a multi-frame object.

    Returns
    -------
    values
        (rows, columns) float32: HU for CT, else the modality's own unit.

    Raises
    ------
    BadInput
        A rescale or LUT that cannot be applied.
    """
    if header.get("ModalityLUTSequence"):
        try:
            return np.asarray(apply_modality_lut(stored, header), dtype=np.float32)
        except _LUT_ERRORS as error:
            raise BadInput("Modality LUT Sequence (0028,3000) cannot be applied") from error
    macro = _macro(header, frame, "PixelValueTransformationSequence")
    slope = _real(macro.get("RescaleSlope"), 1.0)
    intercept = _real(macro.get("RescaleIntercept"), 0.0)
    if slope is None or intercept is None or slope == 0:
        raise BadInput(
            "Rescale Slope (0028,1053) or Rescale Intercept (0028,1052) is not a usable number"
        )
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


def fill_padding(values: FloatArray, mask: BoolArray | None, modality: str) -> FloatArray:
    """Replace padding by air (CT) or the smallest real value, so that it cannot stretch a scale."""
    if mask is None:
        return values
    background = _AIR_HU if modality == "CT" else float(values[~mask].min())
    return np.where(mask, np.float32(background), values)


def shown(
    values: FloatArray, header: Dataset, frame: int, mask: BoolArray | None
) -> tuple[FloatArray, tuple[str, ...]]:
    """Apply the VOI LUT or window, then invert MONOCHROME1: the one place where that is done.

    Parameters
    ----------
    values
        (rows, columns) float32 modality values.
    mask
        Padding, shown black.

    Returns
    -------
    image, notes
        (rows, columns) float32 in [0, 1], dark to bright as a radiologist expects, and what was
        odd about the header.
    """
    valid = values if mask is None else values[~mask]
    low, high = float(valid.min()), float(valid.max())
    image, notes = _voi(values, header, frame)
    if image is None or (high > low and float(np.ptp(image)) < _FLAT):
        if image is not None:
            notes = ("the window of the header shows nothing; the full range was used",)
        image = (values - low) / (high - low) if high > low else np.zeros_like(values)
    image = np.clip(image, 0.0, 1.0)
    if str(header.PhotometricInterpretation).strip() == "MONOCHROME1":
        image = 1.0 - image
    if mask is not None:
        image = np.where(mask, np.float32(0), image)
    return np.ascontiguousarray(image, dtype=np.float32), notes


def _voi(
    values: FloatArray, header: Dataset, frame: int
) -> tuple[FloatArray | None, tuple[str, ...]]:
    macro = _macro(header, frame, "FrameVOILUTSequence")
    if macro.get("VOILUTSequence"):
        try:
            return _lookup(values, macro, header), ()
        except _LUT_ERRORS:
            return None, ("VOI LUT Sequence (0028,3010) cannot be applied; it was ignored",)
    center = _real(_first(macro.get("WindowCenter")), None)
    width = _real(_first(macro.get("WindowWidth")), None)
    function = str(macro.get("VOILUTFunction", "LINEAR")).strip() or "LINEAR"
    if center is None or width is None:
        return None, ()
    if width <= 0 or (function == "LINEAR" and width < 1):
        return None, (f"Window Width (0028,1051) {width:g} is not allowed; it was ignored",)
    return window(values, center, width, function), ()


def _lookup(values: FloatArray, macro: Dataset, header: Dataset) -> FloatArray:
    entries = apply_voi(np.rint(values).astype(np.int64), _with_sign(macro, header))
    bits = int(macro.VOILUTSequence[0].LUTDescriptor[2])
    return (entries / float((1 << bits) - 1)).astype(np.float32)


def _with_sign(macro: Dataset, header: Dataset) -> Dataset:
    lut = Dataset()
    lut.VOILUTSequence = macro.VOILUTSequence
    lut.PixelRepresentation = int(header.get("PixelRepresentation", 0))
    lut.BitsStored = int(header.BitsStored)
    return lut


def window(values: FloatArray, center: float, width: float, function: str) -> FloatArray:
    """Map values to [0, 1] by window centre and width (PS3.3 C.11.2.1.2 and C.11.2.1.3).

    `function` is LINEAR, LINEAR_EXACT or SIGMOID; any other counts as LINEAR.
    """
    if function == "SIGMOID":
        exponent = np.clip(_SIGMOID_STEEPNESS * (values - center) / width, -80, 80)
        return np.asarray(1.0 / (1.0 + np.exp(exponent)), dtype=np.float32)
    if function != "LINEAR_EXACT":
        center, width = center - 0.5, width - 1
    if width == 0:
        return np.asarray(values > center, dtype=np.float32)
    return np.asarray(np.clip((values - center) / width + 0.5, 0.0, 1.0), dtype=np.float32)


def _macro(header: Dataset, frame: int, sequence: str) -> Dataset:
    """Functional group of a frame, shared group, or the data set itself (PS3.3 C.7.6.16)."""
    groups = header.get("PerFrameFunctionalGroupsSequence")
    candidates = [groups[frame]] if groups and frame < len(groups) else []
    candidates += list(header.get("SharedFunctionalGroupsSequence") or [])
    for group in candidates:
        if group.get(sequence):
            item: Dataset = group[sequence][0]
            return item
    return header


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, (list, tuple)) or hasattr(value, "append") else value


def _real(value: Any, default: float | None) -> float | None:
    if value is None or value == "":
        return default
    try:
        number = float(_first(value))
    except (TypeError, ValueError, LookupError):
        return None
    return number if np.isfinite(number) else None


def _integer(value: Any) -> int | None:
    number = _real(value, None)
    return None if number is None else int(number)
