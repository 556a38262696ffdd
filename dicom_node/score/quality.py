"""Is this image one that the model may be used on? Asked before anything is scored.

Pure functions over a header and an array. A violation means "outside the intended use"; a remark
stands beside the score. Neither quotes anything of the patient but the age, which is capped.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dicom_node.domain.study import MODALITY_OF_SOP_CLASS
from dicom_node.score.manifest import IntendedUse

OLDEST_STATED_AGE = 89
"""Ages above are shown as ">89": they could identify a person (45 CFR 164.514)."""

_LATERAL_VIEWS = frozenset({"LL", "RL", "LLD", "RLD", "LAT", "LATERAL", "XTL"})
_LATERAL_WORDS = frozenset({"LAT", "LATERAL", "LATERALIS", "SEITLICH", "PROFIL"})
_CHEST_WORDS = ("CHEST", "THORAX", "THORAC", "LUNG", "CXR", "TORAX", "POUMON", "PULM")
_DAYS_PER_UNIT = {"D": 1.0, "W": 7.0, "M": 30.4375, "Y": 365.25}
_DAYS_PER_YEAR = 365.25
_DESCRIPTIONS = ("StudyDescription", "SeriesDescription", "ProtocolName")

_FEWEST_LEVELS = 16
_LARGEST_EXTREME_SHARE = 0.9
_SMALLEST_SPREAD = 0.02

_LEAST_SHOWN = 1.01
"""What lies beyond 1 must not be shown as 1.00."""


class Header(Protocol):
    """A data set or any mapping from DICOM keyword to value."""

    def get(self, key: str, default: Any = None, /) -> Any:
        """Value of a keyword, or the default."""
        ...


@dataclass(frozen=True, slots=True)
class Scope:
    """What stands against using a model on an image.

    Attributes
    ----------
    violations
        Sentences; any of them puts the image outside the intended use.
    remarks
        Sentences that belong beside the score.
    """

    violations: tuple[str, ...]
    remarks: tuple[str, ...]


def check_header(use: IntendedUse, header: Header) -> Scope:
    """Compare modality, body part, view, age and size with the intended use."""
    violations: list[str] = []
    remarks: list[str] = []
    modality = _modality(header)
    if modality not in use.modalities:
        violations.append(
            f"Modality (0008,0060) is {modality or 'not stated'}, not {_either(use.modalities)}"
        )
    _check_body_part(use, header, violations, remarks)
    if use.view_positions:
        _check_view(use, header, violations, remarks)
    if use.age_years is not None:
        _check_age(use, use.age_years, header, violations, remarks)
    rows, columns = _integer(header.get("Rows")), _integer(header.get("Columns"))
    if rows < use.minimum_rows or columns < use.minimum_columns:
        violations.append(
            f"the image of {rows} x {columns} pixels is smaller than "
            f"{use.minimum_rows} x {use.minimum_columns}"
        )
    return Scope(tuple(violations), tuple(remarks))


def _modality(header: Header) -> str:
    """Modality, or the one that the SOP class implies where the header states none."""
    stated = _text(header.get("Modality"))
    return stated or MODALITY_OF_SOP_CLASS.get(str(header.get("SOPClassUID", "")), "")


def check_picture(shown: NDArray[np.float32]) -> tuple[str, ...]:
    """Say why an image cannot be judged: blank, saturated or with too few gray levels.

    Parameters
    ----------
    shown
        (rows, columns) float32 in [0, 1], as displayed.
    """
    if float(np.std(shown)) < _SMALLEST_SPREAD:
        return ("the image is blank",)
    extreme = float(np.mean((shown <= 0.0) | (shown >= 1.0)))
    if extreme > _LARGEST_EXTREME_SHARE:
        return (f"{extreme:.0%} of the image is fully black or white",)
    levels = int(np.count_nonzero(np.bincount(np.rint(shown * 255).astype(np.int64).ravel())))
    if levels < _FEWEST_LEVELS:
        return (f"the image has only {levels} gray levels",)
    return ()


def unlike_picture(distance: float, look: str) -> str:
    """Why a picture may not be scored whose scope distance is above 1; `look` may be empty."""
    return (
        "the picture is unlike the ones the model was made from "
        f"(scope distance {max(distance, _LEAST_SHOWN):.2f}, at most 1.00)"
        + (f"; it looks {look}" if look else "")
    )


def unlike_slices(refused: int, count: int, distance: float, look: str) -> str:
    """Why a series may not be scored of whose slices too many have a scope distance above 1."""
    return (
        f"{refused} of {count} slices are unlike the ones the model was made from "
        f"(scope distance up to {max(distance, _LEAST_SHOWN):.2f}, at most 1.00)"
        + (f"; most look {look}" if look else "")
    )


def scope_remark(distance: float) -> str:
    """How far the scored images are from those that the model was made from."""
    return f"scope distance {distance:.2f} (1.00 is the limit)"


def age_in_years(header: Header) -> float | None:
    """Age at the study from Patient's Age (0010,1010), else from the birth date; None: unknown."""
    stated = _text(header.get("PatientAge"))
    if len(stated) > 1 and stated[:-1].isdigit() and stated[-1] in _DAYS_PER_UNIT:
        return int(stated[:-1]) * _DAYS_PER_UNIT[stated[-1]] / _DAYS_PER_YEAR
    born = _date(header.get("PatientBirthDate"))
    imaged = _date(header.get("StudyDate")) or _date(header.get("AcquisitionDate"))
    if born is None or imaged is None or imaged < born:
        return None
    had_birthday = (imaged.month, imaged.day) >= (born.month, born.day)
    years = imaged.year - born.year - (0 if had_birthday else 1)
    return float(years)


def _check_body_part(
    use: IntendedUse, header: Header, violations: list[str], remarks: list[str]
) -> None:
    part = _text(header.get("BodyPartExamined"))
    if part:
        if part not in use.body_parts:
            violations.append(
                f"Body Part Examined (0018,0015) is {part}, not {_either(use.body_parts)}"
            )
        return
    described = " ".join(_text(header.get(keyword)) for keyword in _DESCRIPTIONS)
    if any(word in described for word in _CHEST_WORDS):
        return
    sentence = "Body Part Examined (0018,0015) is not stated; a chest cannot be confirmed"
    (violations if use.body_part_must_be_known else remarks).append(sentence)


def _check_view(
    use: IntendedUse, header: Header, violations: list[str], remarks: list[str]
) -> None:
    view = _text(header.get("ViewPosition"))
    if view in use.view_positions:
        return
    words = set(" ".join(_text(header.get(k)) for k in _DESCRIPTIONS[1:]).replace("_", " ").split())
    if view in _LATERAL_VIEWS or (not view and (words & _LATERAL_WORDS or _lies_sagittal(header))):
        violations.append("the view is lateral; only frontal views can be scored")
    elif view:
        violations.append(f"View Position (0018,5101) is {view}, not {_either(use.view_positions)}")
    else:
        remarks.append("View Position (0018,5101) is not stated; a frontal view is assumed")


def _lies_sagittal(header: Header) -> bool:
    """Whether Patient Orientation (0020,0020) says that rows run from front to back."""
    value = header.get("PatientOrientation")
    row = value.split("\\")[0] if isinstance(value, str) else (list(value or [""]) or [""])[0]
    return str(row).strip()[:1] in {"A", "P"}


def _check_age(
    use: IntendedUse,
    limits: tuple[int, int],
    header: Header,
    violations: list[str],
    remarks: list[str],
) -> None:
    low, high = limits
    age = age_in_years(header)
    if age is None:
        sentence = f"the age is not stated; {low}-{high} years cannot be confirmed"
        (violations if use.age_must_be_known else remarks).append(sentence)
    elif not low <= int(age) <= high:
        violations.append(f"age {_age_text(age)} is outside {low}-{high} years")


def _age_text(age: float) -> str:
    if age > OLDEST_STATED_AGE:
        return f">{OLDEST_STATED_AGE} years"
    return "under 1 year" if age < 1 else f"{int(age)} years"


def _either(options: tuple[str, ...]) -> str:
    return " or ".join(options)


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip().upper()


def _integer(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0


def _date(value: Any) -> date | None:
    text = _text(value).replace(".", "").replace("-", "")
    try:
        # A calendar date without a clock: no time zone is involved.
        return datetime.strptime(text, "%Y%m%d").date()  # noqa: DTZ007
    except ValueError:
        return None
