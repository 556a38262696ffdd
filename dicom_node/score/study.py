"""From files to an outcome: the one entrance for the worker and for `score` on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dicom_node.errors import BadInput
from dicom_node.score.bundle import Bundle
from dicom_node.score.ct import score_series
from dicom_node.score.engine import Classifier
from dicom_node.score.lungs import find_lungs
from dicom_node.score.outcome import Outcome, OutOfScope
from dicom_node.score.pixels import Frame, read_frame, read_header
from dicom_node.score.radiograph import score_radiographs
from dicom_node.score.volume import build_volume


def score_files(
    bundle: Bundle, classifier: Classifier, paths: Sequence[Path], *, out_of_scope: OutOfScope
) -> Outcome:
    """Score the files of one study (radiographs) or one series (CT).

    Parameters
    ----------
    paths
        Part 10 files, at least one; their order does not matter.
    out_of_scope
        What to do with images outside the intended use.

    Raises
    ------
    BadInput
        Nothing of it can be decoded; the message names the attribute of the first failure.
    """
    if not paths:
        raise BadInput("there is no image to score")
    if bundle.kind == "ct_series":
        volume = build_volume(paths)
        header = read_header(sorted(paths)[0])
        return score_series(
            bundle, classifier, volume, find_lungs(volume), header, out_of_scope=out_of_scope
        )
    frames, failures = _decode(paths)
    if not frames:
        raise failures[0]
    outcome = score_radiographs(bundle, classifier, frames, out_of_scope=out_of_scope)
    if not failures:
        return outcome
    note = f"{len(failures)} of {len(paths)} images could not be decoded: {failures[0]}"
    marks = (*outcome.prediction.marks, note)
    return Outcome(replace(outcome.prediction, marks=marks), outcome.arrays)


def _decode(paths: Sequence[Path]) -> tuple[list[Frame], list[BadInput]]:
    frames: list[Frame] = []
    failures: list[BadInput] = []
    for path in sorted(paths):
        try:
            frames.append(read_frame(path))
        except BadInput as error:
            failures.append(error)
    frames.sort(key=lambda frame: str(frame.header.SOPInstanceUID))
    return frames, failures
