"""Keep the slices of a series that share one form: size, orientation, spacing, coordinate system.

A series may carry a localizer, a reformat or a second field of view; what is not of the majority's
form cannot be stacked with it and is left out with a note.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from dicom_node.errors import BadInput
from dicom_node.score.slices import SliceHeader

MAJORITY = 0.5
"""Share of slices that must agree on form; below it no part of the series is clearly the series."""
ORIENTATION_TOLERANCE = 0.01
"""Largest difference of a direction cosine within one stack (about half a degree)."""
SPACING_TOLERANCE_MM = 0.002
"""Largest difference of pixel spacing within one stack: 1 mm over 512 pixels."""


def identity(header: SliceHeader) -> tuple[int, int, str]:
    """Sort key for a canonical order, independent of the order of the files."""
    number = header.instance_number
    return (
        number if number is not None else 2**31,
        header.frame_number or 0,
        header.sop_instance_uid,
    )


def slices_text(count: int) -> str:
    """Count slices in words: "1 slice", "3 slices"."""
    return "1 slice" if count == 1 else f"{count} slices"


def _exact(value: Callable[[SliceHeader], Hashable]) -> Callable[[SliceHeader, SliceHeader], bool]:
    return lambda left, right: value(left) == value(right)


def _close(
    value: Callable[[SliceHeader], tuple[float, ...] | None], tolerance: float
) -> Callable[[SliceHeader, SliceHeader], bool]:
    def alike(left: SliceHeader, right: SliceHeader) -> bool:
        a, b = value(left), value(right)
        if a is None or b is None:
            return a is b
        return max(abs(x - y) for x, y in zip(a, b, strict=True)) <= tolerance

    return alike


_FORMS: tuple[tuple[str, Callable[[SliceHeader, SliceHeader], bool]], ...] = (
    ("matrix size", _exact(lambda header: (header.rows, header.columns))),
    ("orientation", _close(lambda header: header.orientation, ORIENTATION_TOLERANCE)),
    ("pixel spacing", _close(lambda header: header.pixel_spacing, SPACING_TOLERANCE_MM)),
    ("frame of reference", _exact(lambda header: header.frame_of_reference_uid)),
)


def _largest_group(
    headers: list[SliceHeader],
    name: str,
    alike: Callable[[SliceHeader, SliceHeader], bool],
    notes: list[str],
) -> list[SliceHeader]:
    groups: list[list[SliceHeader]] = []
    for header in headers:
        group = next((group for group in groups if alike(group[0], header)), None)
        if group is None:
            groups.append([header])
        else:
            group.append(header)
    largest = max(groups, key=len)  # the first of equals: canonical order decides
    left_out = len(headers) - len(largest)
    if not left_out:
        return headers
    if len(largest) < MAJORITY * len(headers):
        raise BadInput(
            f"mixed {name}: no {name} is shared by half of the {slices_text(len(headers))}; "
            "send the series that belong together separately"
        )
    verb = "has" if left_out == 1 else "have"
    notes.append(
        f"mixed {name}: {left_out} of {slices_text(len(headers))} {verb} another {name} and "
        f"{'is' if left_out == 1 else 'are'} left out"
    )
    return largest


def keep_majority(headers: Sequence[SliceHeader], notes: list[str]) -> list[SliceHeader]:
    """Return the slices of the commonest form in canonical order; append a note for the others.

    Raises
    ------
    BadInput
        No form is shared by half of the slices.
    """
    kept = list(headers)
    for name, alike in _FORMS:
        kept = _largest_group(kept, name, alike, notes)
    return kept
