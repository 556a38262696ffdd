"""The left side of the Secondary Capture: key images with their heat maps.

A heat map is blended at no more than 45 %, so that the anatomy under it stays readable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dicom_node.domain.findings import Finding, KeyImage, Prediction
from dicom_node.report.canvas import (
    BLACK,
    CALM,
    LINE,
    MUTED,
    PANEL,
    TEXT,
    WARNING,
    Canvas,
    fitted,
)

Arrays = Mapping[str, NDArray[Any]]
Area = tuple[int, int, int, int]

MOST_TILES = 4
HEAT_OPACITY = 0.45

_AREA: Area = (20, 58, 644, 710)
_GAP = 10
_CAPTION_SIZE, _CAPTION_HEIGHT = 14, 22
_LEGEND_HEIGHT, _BAR_WIDTH, _BAR_HEIGHT = 30, 150, 10
_LEGEND_GREY = 96
_CONTROL_LEVELS = np.linspace(0, 255, 5)
_CONTROL_COLOURS = np.array(
    [(70, 0, 120), (175, 0, 115), (230, 25, 45), (255, 90, 0), (255, 200, 0)]
)
_COLOURS = np.stack(
    [np.interp(np.arange(256), _CONTROL_LEVELS, _CONTROL_COLOURS[:, c]) for c in range(3)], axis=1
)


def draw_panel(canvas: Canvas, prediction: Prediction, arrays: Arrays) -> None:
    """Draw up to four key images, one large or two by two, and the colour bar."""
    shown = [item for item in prediction.key_images if f"display_{item.index}" in arrays]
    shown = shown[:MOST_TILES]
    if prediction.not_analysed is not None:
        # Nothing was scored: a number or a map beside the reason would contradict it.
        shown = [replace(item, probability=None, has_heat=False) for item in shown]
    left, top, right, bottom = _AREA
    canvas.draw.rectangle(_AREA, fill=BLACK, outline=LINE)
    if not shown:
        middle = ((left + right) / 2, (top + bottom) / 2)
        canvas.text(middle, "No image could be shown", 20, MUTED, anchor="mm")
        return
    has_heat = any(_heat(item, arrays) is not None for item in shown)
    tiles = _tiles(len(shown), _LEGEND_HEIGHT if has_heat else 0)
    for area, item in zip(tiles, shown, strict=False):
        _draw_tile(canvas, area, item, prediction, arrays)
    if has_heat:
        _draw_legend(canvas, prediction)


def _heat(item: KeyImage, arrays: Arrays) -> NDArray[np.float32] | None:
    return arrays.get(f"heat_{item.index}") if item.has_heat else None


def _tiles(count: int, reserved: int) -> list[Area]:
    left, top, right, bottom = (
        _AREA[0] + _GAP,
        _AREA[1] + _GAP,
        _AREA[2] - _GAP,
        _AREA[3] - _GAP - reserved,
    )
    if count == 1:
        return [(left, top, right, bottom)]
    width, height = (right - left - _GAP) // 2, (bottom - top - _GAP) // 2
    return [
        (x, y, x + width, y + height)
        for y in (top, top + height + _GAP)
        for x in (left, left + width + _GAP)
    ]


def _draw_tile(
    canvas: Canvas, area: Area, item: KeyImage, prediction: Prediction, arrays: Arrays
) -> None:
    left, top, right, bottom = area
    picture = blended(
        arrays[f"display_{item.index}"],
        _heat(item, arrays),
        width=right - left,
        height=bottom - top - _CAPTION_HEIGHT,
    )
    x = left + (right - left - picture.width) // 2
    y = top + (bottom - top - _CAPTION_HEIGHT - picture.height) // 2
    canvas.image.paste(picture, (x, y))
    for finding in prediction.findings:
        if _belongs(finding, item):
            _draw_box(canvas, finding, (x, y, x + picture.width, y + picture.height))
            break
    middle = (left + right) / 2
    caption = fitted(_caption(item), _CAPTION_SIZE, right - left)
    canvas.text((middle, bottom - 3), caption, _CAPTION_SIZE, TEXT, anchor="ms")


def _belongs(finding: Finding, item: KeyImage) -> bool:
    """A box speaks for a finding that is present; round an absent one it would mislead."""
    return (
        finding.present
        and finding.box is not None
        and finding.sop_instance_uid == item.sop_instance_uid
        and finding.frame_number == item.frame_number
    )


def _caption(item: KeyImage) -> str:
    parts = []
    if item.instance_number is not None:
        parts.append(f"Image {item.instance_number}")
    if item.frame_number is not None:
        parts.append(f"frame {item.frame_number}")
    if item.probability is not None:
        parts.append(f"{100 * item.probability:.1f} %")
    return ", ".join(parts)


def blended(
    display: NDArray[np.uint8], heat: NDArray[np.float32] | None, *, width: int, height: int
) -> Image.Image:
    """Fit an image into an area and lay its heat map over it.

    Parameters
    ----------
    display
        (rows, columns) uint8, dark to bright.
    heat
        (h, w) float32 in [0, 1], covering the whole image at any resolution, or None.
    width, height
        Size of the area in pixels.

    Returns
    -------
    picture
        RGB, no larger than the area, aspect ratio kept.
    """
    rows, columns = display.shape
    scale = min(width / columns, height / rows)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    gray = Image.fromarray(np.ascontiguousarray(display)).resize(
        size, Image.Resampling.LANCZOS, reducing_gap=2.0
    )
    picture = gray.convert("RGB")
    if heat is None:
        return picture
    stretched = Image.fromarray(np.ascontiguousarray(heat, dtype=np.float32)).resize(
        size, Image.Resampling.BILINEAR
    )
    return Image.fromarray(_laid_over(np.asarray(picture), np.asarray(stretched)))


def _laid_over(picture: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    level = np.clip(np.nan_to_num(heat), 0, 1)
    colour = _COLOURS[np.rint(255 * level).astype(np.uint8)]
    alpha = (HEAT_OPACITY * level)[..., np.newaxis]
    mixed = (1 - alpha) * picture + alpha * colour
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def _draw_box(canvas: Canvas, finding: Finding, area: Area) -> None:
    assert finding.box is not None
    left, top, right, bottom = area
    across, down = (right - left) / finding.columns, (bottom - top) / finding.rows
    x0, y0, x1, y1 = finding.box
    box = (
        max(left, round(left + x0 * across)),
        max(top, round(top + y0 * down)),
        min(right - 1, round(left + x1 * across)),
        min(bottom - 1, round(top + y1 * down)),
    )
    if box[0] >= box[2] or box[1] >= box[3]:
        return
    canvas.draw.rectangle((box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1), outline=BLACK, width=4)
    canvas.draw.rectangle(box, outline=WARNING, width=2)


def _draw_legend(canvas: Canvas, prediction: Prediction) -> None:
    left, bottom = _AREA[0] + _GAP + 4, _AREA[3] - _GAP
    middle = bottom - _LEGEND_HEIGHT // 2 + 4
    canvas.text((left, middle), "low", 13, MUTED, anchor="lm")
    ramp = np.linspace(0, 1, _BAR_WIDTH, dtype=np.float32)[np.newaxis].repeat(_BAR_HEIGHT, 0)
    gray = np.full((_BAR_HEIGHT, _BAR_WIDTH, 3), _LEGEND_GREY, dtype=np.uint8)
    start = left + 30
    canvas.image.paste(Image.fromarray(_laid_over(gray, ramp)), (start, middle - _BAR_HEIGHT // 2))
    canvas.draw.rectangle((start - 1, middle - 6, start + _BAR_WIDTH, middle + 5), outline=PANEL)
    canvas.text((start + _BAR_WIDTH + 8, middle), "high", 13, MUTED, anchor="lm")
    name = prediction.findings[0].code.meaning if prediction.findings else "the finding"
    words = fitted(f"Grad-CAM: what speaks for {name} in each image", 13, 350)
    canvas.text((start + _BAR_WIDTH + 54, middle), words, 13, CALM, anchor="lm")
