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
from dicom_node.score.quality import (
    check_header,
    check_picture,
    scope_remark,
    unlike_picture,
)
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


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    """The images that the network saw; `scores` has one entry for each."""

    judged: list[_Judged]
    prepared: list[Prepared]
    scores: Scores

    def violations(self, place: int) -> tuple[str, ...]:
        """What the header and the scope gate say against an image."""
        return (*self.judged[place].violations, *_unlike(self.scores, place))

    def take(self, places: list[int]) -> _Scored:
        """Some of the images, in that order."""
        return _Scored(
            [self.judged[place] for place in places],
            [self.prepared[place] for place in places],
            self.scores.take(places),
        )


def score_radiographs(
    bundle: Bundle, classifier: Classifier, images: Sequence[Frame], *, out_of_scope: OutOfScope
) -> Outcome:
    """Score the radiographs of one study.

    Images outside the intended use, by header or by the scope gate, are left out if others are
    inside. If none is inside, the answer is "not analysed" (`refuse`) or a score marked as outside
    the intended use (`mark`); laterals and blank images are never scored.

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
    # The network runs once, so an image that might be marked is scored with the others.
    candidates = [
        item
        for item in judged
        if not item.unreadable and (out_of_scope == "mark" or not item.violations)
    ]
    if not candidates:
        first = judged[0]
        reasons = (*first.violations, *first.unreadable)
        return _not_analysed(bundle, first.frame, reasons, sources)
    scored = _predict(classifier, candidates)
    inside = [place for place in range(len(candidates)) if not scored.violations(place)]
    if inside:
        return _outcome(bundle, classifier, scored.take(inside), sources)
    if out_of_scope == "refuse":
        return _not_analysed(bundle, candidates[0].frame, scored.violations(0), sources)
    return _outcome(bundle, classifier, scored, sources)


def _judge(bundle: Bundle, frame: Frame) -> _Judged:
    scope = check_header(bundle.intended_use, frame.header)
    lateral = tuple(text for text in scope.violations if "lateral" in text)
    return _Judged(
        frame,
        scope.violations,
        (*lateral, *check_picture(frame.shown)),
        scope.remarks + frame.notes,
    )


def _predict(classifier: Classifier, candidates: list[_Judged]) -> _Scored:
    prepared = [classifier.pipeline.prepare(item.frame.shown) for item in candidates]
    return _Scored(candidates, prepared, classifier.predict([item.tensor for item in prepared]))


def _unlike(scores: Scores, place: int) -> tuple[str, ...]:
    distance = float(scores.distance[place])
    return (unlike_picture(distance, scores.looks[place]),) if distance > 1 else ()


def _not_analysed(
    bundle: Bundle, frame: Frame, reasons: tuple[str, ...], sources: tuple[str, ...]
) -> Outcome:
    shown = [_shown(frame, None, None)]
    return not_analysed(bundle, tuple(dict.fromkeys(reasons)), shown, sources)


def _outcome(
    bundle: Bundle, classifier: Classifier, scored: _Scored, sources: tuple[str, ...]
) -> Outcome:
    """Anchor each finding on its most probable image; show images by the main finding."""
    findings = tuple(_finding(bundle, index, scored) for index in range(len(bundle.findings)))
    main = scored.scores.probabilities[:, 0]
    order = sorted(range(len(main)), key=lambda place: -float(main[place]))
    shown = [
        _shown(scored.judged[i].frame, (scored.scores, i), scored.prepared[i].box) for i in order
    ]
    images, arrays = key_images(shown)
    prediction = Prediction(
        model=bundle.identity,
        findings=findings,
        key_images=images,
        not_analysed=None,
        marks=_marks(bundle, scored),
        engine=classifier.engine,
        source_sop_instance_uids=sources,
    )
    return Outcome(prediction, arrays)


def _marks(bundle: Bundle, scored: _Scored) -> tuple[str, ...]:
    """Violations and remarks of all images; a marked score tells the largest scope distance."""
    farthest = int(scored.scores.distance.argmax())
    distance = float(scored.scores.distance[farthest])
    violations = [text for item in scored.judged for text in item.violations]
    remarks = [text for item in scored.judged for text in item.remarks]
    if violations and bundle.scope_gate is not None and distance <= 1:
        remarks.append(scope_remark(distance))
    violations += _unlike(scored.scores, farthest)
    return marks_of(tuple(dict.fromkeys(violations)), tuple(dict.fromkeys(remarks)))


def _finding(bundle: Bundle, index: int, scored: _Scored) -> Finding:
    scores = scored.scores
    best = int(scores.probabilities[:, index].argmax())
    frame, entry = scored.judged[best].frame, bundle.findings[index]
    rows, columns = frame.shown.shape
    heat = heat_map(scores.maps[best, index], scored.prepared[best].box, rows, columns)
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
