"""The right side of the Secondary Capture: what was found, how sure, by what, and what to mind."""

from __future__ import annotations

from collections.abc import Sequence

from dicom_node.domain.findings import Finding, Level, Prediction
from dicom_node.report.canvas import (
    BACKGROUND,
    CALM,
    LINE,
    MUTED,
    PANEL,
    TEXT,
    WARNING,
    Canvas,
    fitted,
    font,
    wrapped,
)
from dicom_node.report.identity import Run

_LEFT, _TOP, _RIGHT, _BOTTOM = 660, 58, 1004, 710
_PAD = 18
_X = _LEFT + _PAD
_WIDTH = _RIGHT - _LEFT - 2 * _PAD
_OTHER_LINE = 22
_DIGEST_LETTERS = 16
_LABEL_WIDTH = 82
_ROW = 20
_DETAILS_SIZE = 14
_TIME_TOP = _BOTTOM - _PAD - _ROW
_MARK_SIZE = 15
_MARK_LINE = round(_MARK_SIZE * 1.28)
_MARK_FRAME = 44
_ROOM_FOR_MARKS = 12 + _MARK_FRAME + 3 * _MARK_LINE
"""The gap, the frame and three lines: the usual "outside intended use" with its reason."""


def draw_card(canvas: Canvas, prediction: Prediction, run: Run, image_count: int) -> None:
    """Draw the card but for the time; no patient data."""
    canvas.draw.rounded_rectangle((_LEFT, _TOP, _RIGHT, _BOTTOM), 8, fill=PANEL, outline=LINE)
    canvas.text((_X, _TOP + 14), "AI ANALYSIS", 14, CALM)
    y = _TOP + 40
    details = _details(prediction, run, image_count)
    details_top = _TIME_TOP - _ROW * len(details)
    if prediction.not_analysed is not None:
        y = _draw_refusal(canvas, prediction.not_analysed, y)
    else:
        reserved = _ROOM_FOR_MARKS if prediction.marks else 0
        y = _draw_findings(canvas, prediction.findings, y, details_top - 16 - reserved)
    if prediction.marks:
        _draw_marks(canvas, prediction.marks, y + 12, details_top - 16)
    canvas.draw.line((_X, details_top - 8, _X + _WIDTH, details_top - 8), fill=LINE)
    _draw_details(canvas, details, details_top)


def draw_time(canvas: Canvas, run: Run) -> None:
    """Add the card's last line, the time; apart, because the picture's name must not know it."""
    moment = run.finished_at
    zone = f"{moment:%z}" if moment.utcoffset() else ""
    _draw_details(canvas, [("Time", f"{moment:%Y-%m-%d %H:%M:%S} UTC{zone}")], _TIME_TOP)


def _draw_refusal(canvas: Canvas, reason: str, y: int) -> int:
    canvas.text((_X, y), "NOT ANALYSED", 34, WARNING, bold=True)
    y = canvas.paragraph((_X, y + 54), reason[:1].upper() + reason[1:], 18, _WIDTH, TEXT, most=9)
    return canvas.paragraph(
        (_X, y + 10), "No score was given: this is not a negative result.", 15, _WIDTH, MUTED
    )


def _draw_findings(canvas: Canvas, findings: Sequence[Finding], y: int, bottom: int) -> int:
    """The first finding large, present ones before absent ones, the others in a line each.

    What does not fit above `bottom` is counted in a last line, and stands in the SR.
    """
    studied = [finding for finding in findings if finding.level is not Level.SLICE] or findings
    main, *others = sorted(studied, key=lambda finding: not finding.present)
    y = _draw_main(canvas, main, y)
    lines = max(1, (bottom - y) // _OTHER_LINE)
    shown = others if len(others) <= lines else others[: lines - 1]
    for finding in shown:
        verdict = "PRESENT" if finding.present else "ABSENT"
        colour = WARNING if finding.present else MUTED
        value = f"{100 * finding.probability:.1f} %  {verdict}"
        name = fitted(finding.code.meaning, 15, _WIDTH - round(font(15).getlength(value)) - 14)
        canvas.text((_X, y), name, 15, TEXT)
        canvas.text((_X + _WIDTH, y), value, 15, colour, anchor="ra")
        y += _OTHER_LINE
    if rest := others[len(shown) :]:
        present = sum(finding.present for finding in rest)
        counted = f"and {len(rest)} more in the report: {present} present"
        canvas.text((_X, y), counted, 15, WARNING if present else MUTED)
        y += _OTHER_LINE
    return y


def _draw_main(canvas: Canvas, finding: Finding, y: int) -> int:
    for line in wrapped(finding.code.meaning, 26, _WIDTH, most=2):
        canvas.text((_X, y), line, 26, TEXT, bold=True)
        y += 33
    level = {"image": "whole image", "series": "whole series", "slice": "one slice"}
    canvas.text((_X, y), f"Probability, {level[finding.level.value]}", 14, MUTED)
    canvas.text((_X, y + 20), f"{100 * finding.probability:.1f} %", 52, TEXT, bold=True)
    y = _draw_scale(canvas, finding, y + 92)
    return _draw_verdict(canvas, finding, y + 12) + 14


def _draw_scale(canvas: Canvas, finding: Finding, y: int) -> int:
    """A bar from 0 to 100 % with the threshold marked on it."""
    colour = WARNING if finding.present else CALM
    end = _X + round(_WIDTH * min(max(finding.probability, 0), 1))
    canvas.draw.rectangle((_X, y, _X + _WIDTH, y + 10), fill=BACKGROUND, outline=LINE)
    if end > _X:
        canvas.draw.rectangle((_X, y, end, y + 10), fill=colour)
    tick = _X + round(_WIDTH * finding.threshold)
    canvas.draw.line((tick, y - 5, tick, y + 15), fill=TEXT, width=2)
    label = f"threshold {100 * finding.threshold:.1f} %"
    half = font(14).getlength(label) / 2
    middle = min(max(tick, _X + half), _X + _WIDTH - half)
    canvas.text((middle, y + 18), label, 14, MUTED, anchor="ma")
    return y + 38


def _draw_verdict(canvas: Canvas, finding: Finding, y: int) -> int:
    box = (_X, y, _X + _WIDTH, y + 42)
    middle = (_X + _WIDTH / 2, y + 21)
    if finding.present:
        canvas.draw.rounded_rectangle(box, 6, fill=WARNING)
        canvas.text(middle, "PRESENT", 24, BACKGROUND, bold=True, anchor="mm")
    else:
        canvas.draw.rounded_rectangle(box, 6, outline=CALM, width=2)
        canvas.text(middle, "ABSENT", 24, CALM, bold=True, anchor="mm")
    return y + 42


def _draw_marks(canvas: Canvas, marks: Sequence[str], top: int, bottom: int) -> None:
    """Write the warnings into what room is left; what does not fit stands in the SR."""
    most = max(1, (bottom - top - _MARK_FRAME) // _MARK_LINE)
    sentences = ". ".join(mark[:1].upper() + mark[1:].rstrip(". ") for mark in marks) + "."
    lines = wrapped(sentences, _MARK_SIZE, _WIDTH - 24, most=most)
    height = _MARK_FRAME + _MARK_LINE * len(lines)
    canvas.draw.rounded_rectangle(
        (_X, top, _X + _WIDTH, top + height), 6, fill=(58, 40, 6), outline=WARNING, width=2
    )
    canvas.text((_X + 12, top + 10), "CAUTION", 14, WARNING, bold=True)
    for number, line in enumerate(lines):
        canvas.text((_X + 12, top + 32 + number * _MARK_LINE), line, _MARK_SIZE, WARNING)


def _details(prediction: Prediction, run: Run, image_count: int) -> list[tuple[str, str]]:
    return [
        ("Model", run.algorithm.name),
        ("Version", run.algorithm.version),
        ("Maker", run.algorithm.manufacturer),
        ("Weights", prediction.model.weights_sha256[:_DIGEST_LETTERS]),
        ("Input", f"{run.context.input_digest[:_DIGEST_LETTERS]}"),
        ("Revision", f"{run.context.revision}   ({_counted(image_count)})"),
        ("Software", f"{run.context.product_name} {run.context.node_version}"),
    ]


def _counted(images: int) -> str:
    return "1 image" if images == 1 else f"{images} images"


def _draw_details(canvas: Canvas, details: Sequence[tuple[str, str]], top: int) -> None:
    for number, (label, value) in enumerate(details):
        y = top + number * _ROW
        canvas.text((_X, y), label, _DETAILS_SIZE, MUTED)
        words = fitted(value, _DETAILS_SIZE, _WIDTH - _LABEL_WIDTH)
        canvas.text((_X + _LABEL_WIDTH, y), words, _DETAILS_SIZE, TEXT)
