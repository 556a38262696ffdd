"""Sending by STOW-RS (PS3.18 section 10.5), with files' bytes as they are stored."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from uuid import uuid4

from dicom_node.config_destinations import DicomwebConfig
from dicom_node.deliver.dimse import OnResult, SendOutcome
from dicom_node.deliver.http import HttpConnection, connect
from dicom_node.deliver.http_statuses import Refusal, judge_page, judge_refusal
from dicom_node.deliver.part10 import StoredFile, read_stored
from dicom_node.deliver.statuses import judge_failure_reason, judge_status
from dicom_node.deliver.stow_report import StoreReport, read_report
from dicom_node.errors import BadInput, DeliveryRejected, DestinationUnavailable

_PIECE_BYTES = 1 << 16
_FAILURES_IN_A_ROW = 2
# We ask for JSON; archives that have only XML would answer 406 to that alone.
_ACCEPT: Final = "application/dicom+json, application/dicom+xml;q=0.5"
_NO_PROOF: Final = "sent, but the answer does not say that it is stored"


def store_files(destination: DicomwebConfig, paths: Sequence[Path], on_result: OnResult) -> None:
    """Store Part 10 files in one request; each alone if one of them may have spoiled that.

    Parameters
    ----------
    on_result
        Called once for every path; nothing is raised for a destination or a file that fails.
    """
    files = []
    for path in paths:
        try:
            files.append(read_stored(path))
        except BadInput as error:
            on_result(path, SendOutcome(None, error=DeliveryRejected(str(error))))
    if files:
        for file, outcome in zip(files, _store_all(destination, files), strict=True):
            on_result(file.path, outcome)


def _store_all(destination: DicomwebConfig, files: Sequence[StoredFile]) -> Iterator[SendOutcome]:
    """One outcome a file, in their order."""
    try:
        with connect(destination) as connection:
            result = _store(connection, destination, files)
            if isinstance(result, Refusal) and result.blames_content and len(files) > 1:
                yield from _store_each(connection, destination, files)
                return
    except DestinationUnavailable as error:
        result = Refusal(error)
    yield from _outcomes(result, len(files))


def _store_each(
    connection: HttpConnection, destination: DicomwebConfig, files: Sequence[StoredFile]
) -> Iterator[SendOutcome]:
    """A request for each file, until it seems that the fault is not theirs."""
    failures, given_up = 0, None
    for file in files:
        result = given_up or _store(connection, destination, [file])
        yield from _outcomes(result, 1)
        down = isinstance(result, Refusal) and isinstance(result.error, DestinationUnavailable)
        failures = failures + 1 if down else 0
        if isinstance(result, Refusal) and failures >= _FAILURES_IN_A_ROW:
            given_up = result


def _outcomes(result: Sequence[SendOutcome] | Refusal, count: int) -> Sequence[SendOutcome]:
    if isinstance(result, Refusal):
        return [SendOutcome(None, error=result.error)] * count
    return result


def _store(
    connection: HttpConnection, destination: DicomwebConfig, files: Sequence[StoredFile]
) -> list[SendOutcome] | Refusal:
    """Make one request; what became of each file, or why the request as a whole was refused."""
    boundary = uuid4().hex
    try:
        answer = connection.ask(
            "POST",
            "/studies",
            headers={
                "Accept": _ACCEPT,
                "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            },
            content=_multipart(files, boundary),
            size=_multipart_size(files, boundary),
        )
    except DestinationUnavailable as error:
        return Refusal(error, blames_content=connection.was_made)
    page = judge_page(destination.url, answer)
    report = read_report(answer.media_type, answer.body) if answer.body else None
    if 200 <= answer.status < 300:
        return page or [_judge_one(destination, report, file) for file in files]
    refusal = judge_refusal(destination.url, answer)
    if not refusal.blames_content or report is None:
        return refusal
    failed = {file.sop_instance_uid for file in files} & set(report.failed)
    # Nothing is stored then, whatever else the answer claims.
    only_failed = StoreReport({}, report.failed)
    return [_judge_one(destination, only_failed, file) for file in files] if failed else refusal


def _judge_one(
    destination: DicomwebConfig, report: StoreReport | None, file: StoredFile
) -> SendOutcome:
    uid = file.sop_instance_uid
    if report is not None and uid in report.failed:
        return SendOutcome(None, *judge_failure_reason(report.failed[uid]))
    if report is not None and uid in report.stored:
        warning = report.stored[uid]
        remark, _ = judge_status(warning or 0, called="warning reason")
        return SendOutcome(None, remark)
    if destination.confirm == "query":
        return SendOutcome(None, _NO_PROOF)
    return SendOutcome(
        None,
        error=DestinationUnavailable(
            f"{_NO_PROOF}; set confirm: query for a destination that answers so"
        ),
    )


def _part_head(boundary: str) -> bytes:
    return f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()


def _multipart_end(boundary: str) -> bytes:
    return f"--{boundary}--\r\n".encode()


def _multipart_size(files: Sequence[StoredFile], boundary: str) -> int:
    parts = sum(len(_part_head(boundary)) + file.size + len(b"\r\n") for file in files)
    return parts + len(_multipart_end(boundary))


def _multipart(files: Sequence[StoredFile], boundary: str) -> Iterator[bytes]:
    """The body (RFC 2387), a piece at a time; OSError: a file cannot be read as it was."""
    for file in files:
        yield _part_head(boundary)
        left = file.size
        with file.path.open("rb") as opened:
            while piece := opened.read(min(_PIECE_BYTES, left)):
                left -= len(piece)
                yield piece
        if left:
            raise OSError(errno.EIO, "its end is missing")
        yield b"\r\n"
    yield _multipart_end(boundary)
