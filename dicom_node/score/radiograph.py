"""Score the frontal radiographs of a study: one finding a study, on the most telling image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dicom_node.domain.findings import Finding, Level, Prediction
from dicom_node.errors import BadInput
from dicom_node.score.bundle import Bundle, code_of
from dicom_node.score.engine import Classifier, Scores
from dicom_node.score.explain import heat_map, strongest_box
from dicom_node.score.outcome import (
    Outcome,
    OutOfScope,
    Shown,
    key_images,
    marks_of,
    not_analysed,
)
from dicom_node.score.pixels import Frame
from dicom_node.score.quality import check_header, check_picture
from dicom_node.score.transforms import Prepared


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """An image with what stands against scoring it.

    `unreadable` bars it whatever the route says: no model can see a blank image.
    """

    frame: Frame
    violations: tuple[str, ...]
    unreadable: tuple[str, ...]
    remarks: tuple[str, ...]


def score_radiographs(
    bundle: Bundle, classifier: Classifier, images: Sequence[Frame], *, out_of_scope: OutOfScope
) -> Outcome:
    """Score the radiographs of one study.

    Images outside the intended use are left out if others are inside. If none is inside, the
    answer is "not analysed" (`refuse`) or a score marked as outside the intended use (`mark`);
    laterals and blank images are never scored.

    Parameters
    ----------
    images
        Decoded images of one study, at least one.

    Raises
    ------
    BadInput
        No image was given.
    """
    if not images:
        raise BadInput("no radiograph of the study could be decoded")
    judged = [_judge(bundle, frame) for frame in images]
    sources = tuple(str(frame.header.SOPInstanceUID) for frame in images)
    usable = [item for item in judged if not item.violations and not item.unreadable]
    if not usable and out_of_scope == "mark":
        usable = [item for item in judged if not item.unreadable]
    if not usable:
        first = judged[0]
        reasons = tuple(dict.fromkeys((*first.violations, *first.unreadable)))
        return not_analysed(bundle, reasons, [_shown(first.frame, None, None)], sources)
    prepared = [classifier.pipeline.prepare(item.frame.shown) for item in usable]
    scores = classifier.predict([item.tensor for item in prepared])
    return _outcome(bundle, classifier, usable, prepared, scores, sources)


def _judge(bundle: Bundle, frame: Frame) -> _Judged:
    scope = check_header(bundle.intended_use, frame.header)
    lateral = tuple(text for text in scope.violations if "lateral" in text)
    return _Judged(
        frame,
        scope.violations,
        (*lateral, *check_picture(frame.shown)),
        scope.remarks + frame.notes,
    )


def _outcome(
    bundle: Bundle,
    classifier: Classifier,
    usable: list[_Judged],
    prepared: list[Prepared],
    scores: Scores,
    sources: tuple[str, ...],
) -> Outcome:
    """Anchor each finding on its most probable image; show images by the main finding."""
    findings = tuple(
        _finding(bundle, index, usable, prepared, scores) for index in range(len(bundle.findings))
    )
    order = sorted(range(len(usable)), key=lambda i: -float(scores.probabilities[i, 0]))
    shown = [_shown(usable[i].frame, (scores, i), prepared[i].box) for i in order]
    images, arrays = key_images(shown)
    violations = tuple(dict.fromkeys(text for item in usable for text in item.violations))
    remarks = tuple(dict.fromkeys(text for item in usable for text in item.remarks))
    prediction = Prediction(
        model=bundle.identity,
        findings=findings,
        key_images=images,
        not_analysed=None,
        marks=marks_of(violations, remarks),
        engine=classifier.engine,
        source_sop_instance_uids=sources,
    )
    return Outcome(prediction, arrays)


def _finding(
    bundle: Bundle, index: int, usable: list[_Judged], prepared: list[Prepared], scores: Scores
) -> Finding:
    best = int(scores.probabilities[:, index].argmax())
    frame, entry = usable[best].frame, bundle.findings[index]
    rows, columns = frame.shown.shape
    heat = heat_map(scores.maps[best, index], prepared[best].box, rows, columns)
    return Finding(
        code=code_of(entry.code),
        site=code_of(entry.site),
        probability=float(scores.probabilities[best, index]),
        threshold=entry.threshold,
        level=Level.IMAGE,
        sop_instance_uid=str(frame.header.SOPInstanceUID),
        instance_number=instance_number(frame),
        frame_number=frame.frame_number,
        rows=rows,
        columns=columns,
        box=strongest_box(heat, rows, columns),
    )


def _shown(
    frame: Frame, scored: tuple[Scores, int] | None, box: tuple[int, int, int, int] | None
) -> Shown:
    heat, probability = None, None
    if scored is not None and box is not None:
        scores, index = scored
        heat = heat_map(scores.maps[index, 0], box, *frame.shown.shape)
        probability = float(scores.probabilities[index, 0])
    return Shown(
        sop_instance_uid=str(frame.header.SOPInstanceUID),
        instance_number=instance_number(frame),
        frame_number=frame.frame_number,
        probability=probability,
        display=frame.display,
        heat=heat,
    )


def instance_number(frame: Frame) -> int | None:
    """Instance Number (0020,0013), or None if it is absent, empty or no integer."""
    value = frame.header.get("InstanceNumber")
    try:
        return None if value is None or value == "" else int(value)
    except (TypeError, ValueError):
        return None
