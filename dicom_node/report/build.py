"""The report stage's one entrance: a prediction becomes result objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dicom_node.domain.findings import Prediction
from dicom_node.errors import BadInput
from dicom_node.report.capture import build_capture
from dicom_node.report.context import ReportContext, ResultObject
from dicom_node.report.identity import identify_run
from dicom_node.report.panel import Arrays
from dicom_node.report.source import read_source
from dicom_node.report.sr import build_sr

__all__ = ["KINDS", "ReportContext", "ResultObject", "build_results"]

KINDS = ("SR", "SC")
"""Kinds of result objects that can be asked for, in the order in which they are made."""


def build_results(
    context: ReportContext,
    prediction: Prediction,
    arrays: Arrays,
    sources: Sequence[Path],
    kinds: Sequence[str] = KINDS,
) -> tuple[ResultObject, ...]:
    """Build the result objects of one job; the same arguments give the same bytes.

    Parameters
    ----------
    arrays
        `display_<i>` (rows, columns) uint8 and, where there is one, `heat_<i>` (h, w) float32 in
        [0, 1], for the prediction's key images.
    sources
        Stored files of every instance that was scored or weighed. Identity is copied from the
        first; all are recorded as evidence.
    kinds
        Which of `KINDS` to build, each at most once.

    Returns
    -------
    results
        One Comprehensive 3D SR and one Secondary Capture.

    Raises
    ------
    BadInput
        A source cannot be read or lacks what no result can be without, the prediction speaks of an
        image that is not among the sources, or it holds neither a finding nor a reason.
    """
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise BadInput(f"no result object of kind {', '.join(unknown)}; there are SR and SC")
    if not prediction.findings and prediction.not_analysed is None:
        raise BadInput("the prediction holds neither a finding nor a reason for having none")
    source = read_source(sources)
    run = identify_run(context, prediction.model, source)
    results = []
    if "SR" in kinds:
        results.append(build_sr(run, prediction, source))
    if "SC" in kinds:
        results.append(build_capture(run, prediction, arrays, source))
    return tuple(results)
