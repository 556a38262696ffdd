"""Score a CT series: classify chosen axial slices, aggregate, keep the slices that decided."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicom_node.domain.findings import Finding, Level, Prediction
from dicom_node.errors import ModelError
from dicom_node.score.bundle import Bundle, code_of
from dicom_node.score.engine import Classifier, Scores
from dicom_node.score.explain import heat_map, strongest_box
from dicom_node.score.grayscale import window
from dicom_node.score.lungs import LungMask, choose_slices
from dicom_node.score.manifest import Aggregation
from dicom_node.score.outcome import (
    Outcome,
    OutOfScope,
    Shown,
    key_images,
    marks_of,
    not_analysed,
)
from dicom_node.score.quality import Header, check_header, scope_remark, unlike_slices
from dicom_node.score.transforms import FloatArray, Prepared
from dicom_node.score.volume import Volume

LUNG_WINDOW = (-600.0, 1500.0)
"""Centre and width in HU of the displayed slices."""
_REFUSED_SHARE = 0.5
"""Share of the chosen slices beyond which the scope gate refuses the series."""


@dataclass(frozen=True, slots=True, eq=False)
class _Slices:
    """Chosen slices of a volume as the classifier saw them; `flips` as (rows, columns)."""

    volume: Volume
    indices: list[int]
    prepared: list[Prepared]
    scores: Scores
    flips: tuple[bool, bool]


def score_series(
    bundle: Bundle,
    classifier: Classifier,
    volume: Volume,
    lungs: LungMask,
    header: Header,
    *,
    out_of_scope: OutOfScope,
) -> Outcome:
    """Score one CT series.

    Parameters
    ----------
    volume, lungs
        The series in Hounsfield units and where its lungs are.
    header
        Header of one of its instances.
    out_of_scope
        `refuse`: a series outside the intended use, by header or by the scope gate, is "not
        analysed"; `mark`: it is scored and marked. A series without lungs or that is not axial is
        never scored.
    """
    scope = check_header(bundle.intended_use, header)
    barred = _barred(volume, lungs)
    if barred or (scope.violations and out_of_scope == "refuse"):
        return _not_analysed(bundle, volume, (*scope.violations, *barred))
    rule = bundle.metadata.dicom_node.aggregation
    if rule is None:
        raise ModelError(f"{bundle.name} is no model for series")
    slices = _classify(classifier, volume, choose_slices(volume, lungs, count=rule.slices))
    unlike = _unlike(slices.scores)
    if unlike and out_of_scope == "refuse":
        return _not_analysed(bundle, volume, unlike)
    violations = (*scope.violations, *unlike)
    remarks = [*scope.remarks, *volume.notes, *lungs.notes]
    if violations and not unlike and bundle.scope_gate is not None:
        remarks.append(scope_remark(float(slices.scores.distance.max())))
    marks = marks_of(violations, tuple(dict.fromkeys(remarks)))
    return _outcome(bundle, classifier, rule, slices, marks)


def _not_analysed(bundle: Bundle, volume: Volume, reasons: tuple[str, ...]) -> Outcome:
    middle = _shown(volume, len(volume.hu) // 2, None, None)
    return not_analysed(bundle, reasons, [middle], _sources(volume))


def _unlike(scores: Scores) -> tuple[str, ...]:
    """Say that more than half of the slices lie beyond the scope gate's limit."""
    refused, count = int(np.count_nonzero(scores.distance > 1)), len(scores.distance)
    if refused <= _REFUSED_SHARE * count:
        return ()
    looks = Counter(word for word in scores.looks if word).most_common(1)
    look = "".join(word for word, times in looks if times > refused / 2)
    return (unlike_slices(refused, count, float(scores.distance.max()), look),)


def _outcome(
    bundle: Bundle,
    classifier: Classifier,
    rule: Aggregation,
    slices: _Slices,
    marks: tuple[str, ...],
) -> Outcome:
    findings, order = _findings(bundle, rule, slices)
    images, arrays = key_images([_key_slice(slices, place) for place in order])
    prediction = Prediction(
        model=bundle.identity,
        findings=findings,
        key_images=images,
        not_analysed=None,
        marks=marks,
        engine=classifier.engine,
        source_sop_instance_uids=_sources(slices.volume),
    )
    return Outcome(prediction, arrays)


def _sources(volume: Volume) -> tuple[str, ...]:
    return tuple(dict.fromkeys(volume.sop_instance_uids))


def series_probability(probabilities: NDArray[np.float64], top_share: float) -> float:
    """Mean of the highest `top_share` of slice probabilities, of at least one slice."""
    count = max(1, math.ceil(len(probabilities) * top_share))
    return float(np.sort(probabilities)[-count:].mean())


def _barred(volume: Volume, lungs: LungMask) -> tuple[str, ...]:
    plane = volume.plane
    oblique = () if plane == "axial" else (f"the series is {plane}; only axial ones can be scored",)
    return (*oblique, *((lungs.refusal,) if lungs.refusal else ()))


def _classify(classifier: Classifier, volume: Volume, indices: list[int]) -> _Slices:
    """Score slices turned as radiologists view them: x to the left, y to the back (C.7.6.2.1.1)."""
    row_direction, column_direction = volume.orientation[0], volume.orientation[4]
    flips = (column_direction < 0, row_direction < 0)
    axes = tuple(axis for axis, turned in enumerate(flips) if turned)
    prepared = [
        classifier.pipeline.prepare(np.ascontiguousarray(np.flip(volume.hu[index], axes)))
        for index in indices
    ]
    scores = classifier.predict([item.tensor for item in prepared])
    return _Slices(volume, indices, prepared, scores, flips)


def _findings(
    bundle: Bundle, rule: Aggregation, slices: _Slices
) -> tuple[tuple[Finding, ...], list[int]]:
    """Series findings first, then the slices that decided on the main one, strongest first."""
    series = []
    for index in range(len(bundle.findings)):
        probabilities = slices.scores.probabilities[:, index]
        whole = series_probability(probabilities, rule.top_share)
        best = int(probabilities.argmax())
        series.append(_finding(bundle, index, slices, best, Level.SERIES, whole))
    main = slices.scores.probabilities[:, 0]
    order = [int(place) for place in np.argsort(-main, kind="stable")[: rule.key_slices]]
    single = [
        _finding(bundle, 0, slices, place, Level.SLICE, float(main[place])) for place in order
    ]
    return (*series, *single), order


def _finding(
    bundle: Bundle, index: int, slices: _Slices, place: int, level: Level, probability: float
) -> Finding:
    volume, entry, at = slices.volume, bundle.findings[index], slices.indices[place]
    rows, columns = volume.hu.shape[1:]
    return Finding(
        code=code_of(entry.code),
        site=code_of(entry.site),
        probability=probability,
        threshold=entry.threshold,
        level=level,
        sop_instance_uid=volume.sop_instance_uids[at],
        instance_number=volume.instance_numbers[at],
        frame_number=volume.frame_numbers[at],
        rows=rows,
        columns=columns,
        box=strongest_box(_heat(slices, place, index), rows, columns),
    )


def _heat(slices: _Slices, place: int, finding: int) -> FloatArray:
    """Heat map over the slice as stored."""
    rows, columns = slices.volume.hu.shape[1:]
    heat = heat_map(slices.scores.maps[place, finding], slices.prepared[place].box, rows, columns)
    axes = tuple(axis for axis, turned in enumerate(slices.flips) if turned)
    return np.ascontiguousarray(np.flip(heat, axes))


def _key_slice(slices: _Slices, place: int) -> Shown:
    probability = float(slices.scores.probabilities[place, 0])
    return _shown(slices.volume, slices.indices[place], probability, _heat(slices, place, 0))


def _shown(volume: Volume, index: int, probability: float | None, heat: FloatArray | None) -> Shown:
    level = window(volume.hu[index], *LUNG_WINDOW, "LINEAR_EXACT")
    return Shown(
        sop_instance_uid=volume.sop_instance_uids[index],
        instance_number=volume.instance_numbers[index],
        frame_number=volume.frame_numbers[index],
        probability=probability,
        display=np.rint(level * 255).astype(np.uint8),
        heat=heat,
    )
