"""A CT series as one volume: classic single-frame files or Enhanced CT, sorted and checked.

The arrays hold ORIGINAL slices; `regular_image` makes the straightened and evenly spaced image that
lung finding works on, and `RegularImage.to_source` brings a mask back to the original slices.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicom_node.errors import BadInput
from dicom_node.score.majority import slices_text
from dicom_node.score.pixels import read_modality_values
from dicom_node.score.slices import SliceHeader, read_slice_headers
from dicom_node.score.stack import Stack, arrange, plane_of

MAXIMUM_VOXELS = 600 * 512 * 512
"""630 MB of float32: what one scorer may hold."""
MAXIMUM_SLICE_PIXELS = 4096 * 4096
UNREADABLE_SHARE = 0.1
"""Share of slices that may fail to decode; beyond it the series counts as damaged."""
SLICES_PER_TASK = 4
"""Slices sent to a decoding process at once: few enough to spread, 4 MB to send back."""
DECODING_THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """The original slices of one CT series in spatial order.

    Attributes
    ----------
    hu
        (slices, rows, columns) float32, Hounsfield units, as decoded: not resampled.
    spacing
        (between slices, between rows, between columns), mm; the first is the median gap.
    positions
        (slices,) float64, mm along the normal, strictly ascending.
    origin
        Centre of the first pixel of the first slice in patient coordinates, mm.
    orientation
        Image Orientation (Patient): direction of increasing column index, then row index.
    drift
        In-plane movement for each mm along the normal, (along a row, along a column).
    sop_instance_uids, instance_numbers, frame_numbers
        One entry for each slice; frame numbers are 1-based, None for a single-frame file.
    notes
        Short sentences for a radiologist or an administrator: what was odd and what was done.
    """

    hu: NDArray[np.float32]
    spacing: tuple[float, float, float]
    positions: NDArray[np.float64]
    origin: tuple[float, ...]
    orientation: tuple[float, ...]
    drift: tuple[float, float]
    sop_instance_uids: tuple[str, ...]
    instance_numbers: tuple[int | None, ...]
    frame_numbers: tuple[int | None, ...]
    notes: tuple[str, ...]

    @property
    def plane(self) -> str:
        """Nearest plane of the body: "axial", "coronal" or "sagittal"."""
        return plane_of(self.orientation)


def build_volume(
    paths: Sequence[Path],
    *,
    minimum_slices: int = 1,
    maximum_voxels: int = MAXIMUM_VOXELS,
    executor: Executor | None = None,
) -> Volume:
    """Read one CT series into a volume.

    Parameters
    ----------
    paths
        The files of one series in any order: the result does not depend on it.
    minimum_slices
        Fewest slices at distinct positions.
    maximum_voxels
        Bound of `Volume.hu` (4 bytes each); a longer series is thinned evenly, with a note.
    executor
        Where slices are decoded. None: a few threads, best for uncompressed series. JPEG 2000 and
        its kin hold the interpreter lock: a process pool that the caller keeps decodes those on
        all cores.

    Raises
    ------
    BadInput
        Unreadable files, no usable Pixel Spacing, slices that cannot be ordered or do not belong
        together, fewer than `minimum_slices`, or more than a tenth that cannot be decoded.
    """
    stack = arrange(read_slice_headers(paths), minimum_slices=minimum_slices)
    stack = _thinned(stack, maximum_voxels)
    hu, failures = _decode(stack.headers, executor)
    if failures:
        stack, hu = _without(stack, hu, failures, minimum_slices)
    return Volume(
        hu=hu,
        spacing=(stack.gap, *stack.pixel_spacing),
        positions=stack.positions,
        origin=stack.origin,
        orientation=stack.orientation,
        drift=stack.drift,
        sop_instance_uids=tuple(header.sop_instance_uid for header in stack.headers),
        instance_numbers=tuple(header.instance_number for header in stack.headers),
        frame_numbers=tuple(header.frame_number for header in stack.headers),
        notes=stack.notes,
    )


def _thinned(stack: Stack, maximum_voxels: int) -> Stack:
    """Keep every n-th slice of a series that would not fit in memory."""
    first = stack.headers[0]
    pixels = first.rows * first.columns
    if not 0 < pixels <= MAXIMUM_SLICE_PIXELS:
        raise BadInput(
            f"Rows (0028,0010) x Columns (0028,0011) is {first.rows} x {first.columns}; "
            f"slices of 1 to {MAXIMUM_SLICE_PIXELS} pixels can be scored"
        )
    step = math.ceil(len(stack.headers) * pixels / maximum_voxels)
    if step <= 1:
        return stack
    kept = stack.headers[::step]
    note = f"{slices_text(len(stack.headers))}: every {step}. one was read to bound memory"
    return replace(
        stack,
        headers=kept,
        positions=stack.positions[::step],
        gap=stack.gap * step,
        notes=(*stack.notes, note),
    )


def _decode(
    headers: Sequence[SliceHeader], executor: Executor | None
) -> tuple[NDArray[np.float32], dict[int, BadInput]]:
    """Decode every slice; returns the array and what failed, by index."""
    if executor is None:
        with ThreadPoolExecutor(DECODING_THREADS) as threads:
            return _decode(headers, threads)
    hu = np.zeros((len(headers), headers[0].rows, headers[0].columns), np.float32)
    failures: dict[int, BadInput] = {}
    paths = [header.path for header in headers]
    frames = [header.frame_number for header in headers]
    slices = executor.map(_decoded, paths, frames, chunksize=SLICES_PER_TASK)
    for index, values in enumerate(slices):
        if isinstance(values, BadInput):
            failures[index] = values
        elif values.shape != hu.shape[1:]:
            failures[index] = BadInput(f"pixel data are {values.shape}, not Rows x Columns")
        else:
            hu[index] = values
    return hu, failures


def _decoded(path: Path, frame_number: int | None) -> NDArray[np.float32] | BadInput:
    try:
        return read_modality_values(path, frame_number)
    except BadInput as error:
        return error


def _without(
    stack: Stack, hu: NDArray[np.float32], failures: dict[int, BadInput], minimum_slices: int
) -> tuple[Stack, NDArray[np.float32]]:
    """Leave out the slices that could not be decoded and check the geometry again."""
    reason = failures[min(failures)]
    if len(failures) > UNREADABLE_SHARE * len(stack.headers):
        raise BadInput(
            f"{len(failures)} of {slices_text(len(stack.headers))} cannot be decoded: {reason}"
        ) from reason
    kept = [index for index in range(len(stack.headers)) if index not in failures]
    rest = arrange([stack.headers[index] for index in kept], minimum_slices=minimum_slices)
    note = f"{slices_text(len(failures))} left out, not decodable: {reason}"
    return replace(rest, notes=_merged(stack.notes, rest.notes, (note,))), hu[kept]


def _merged(*groups: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for group in groups for note in group))
