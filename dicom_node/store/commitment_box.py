"""Where receiver and courier hand each other storage commitment, as files: no database needed.

    commitment/
        reports/NAME.json     a destination's answer to our request; the courier takes it
        requests/NAME.json    a sender's request to us; the courier takes it
        answers/NAME.json     what the sender shall hear; whoever sends it takes it
        answers/NAME.held     the receiver is sending it on the association of the request
        answers/NAME.sent     the sender has heard it; the courier notes that

Names are ours; each step is one durable write or one rename, so that a crash repeats it at worst.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import uuid4

import structlog

from dicom_node.domain.commitment import CommitmentReport, CommitmentRequest, Reference
from dicom_node.store.files import fsync_folder, make_folder, write_durably

_log = structlog.get_logger()


class AnswerState(StrEnum):
    """How far an answer on its way to a sender is."""

    WAITING = "waiting"
    HELD = "held"
    SENT = "sent"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class ReceivedReport:
    """A destination's answer as it came in."""

    path: Path
    calling_ae_title: str
    received_at: datetime
    report: CommitmentReport


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A sender's request as it came in; `name` is that of its answer, too."""

    path: Path
    name: str
    calling_ae_title: str
    received_at: datetime
    request: CommitmentRequest


class CommitmentBox:
    """The folder that both sides share.

    Every method that writes raises OSError where the disk does not take it.
    """

    def __init__(self, folder: Path) -> None:
        self._reports = folder / "reports"
        self._requests = folder / "requests"
        self._answers = folder / "answers"

    def prepare(self) -> None:
        """Make the folders."""
        for folder in (self._reports, self._requests, self._answers):
            make_folder(folder)

    def put_report(self, report: CommitmentReport, *, calling_ae_title: str, now: datetime) -> None:
        """Keep a destination's answer, durable on return."""
        self._put(self._reports, report, calling_ae_title, now)

    def put_request(
        self, request: CommitmentRequest, *, calling_ae_title: str, now: datetime
    ) -> str:
        """Keep a sender's request, durable on return; returns its name."""
        return self._put(self._requests, request, calling_ae_title, now)

    def any_report(self) -> bool:
        """Whether an answer waits."""
        return any(self._reports.glob("*.json"))

    def any_request(self) -> bool:
        """Whether a request waits."""
        return any(self._requests.glob("*.json"))

    def reports(self) -> Iterator[ReceivedReport]:
        """Answers that nobody has taken, oldest first."""
        for path, letter in _letters(self._reports):
            yield ReceivedReport(path, *_envelope(letter), report=_report(letter))

    def requests(self) -> Iterator[ReceivedRequest]:
        """Requests that nobody has taken, oldest first."""
        for path, letter in _letters(self._requests):
            asked = CommitmentRequest(letter["transaction_uid"], _references(letter["references"]))
            yield ReceivedRequest(path, path.stem, *_envelope(letter), request=asked)

    def remove(self, path: Path) -> None:
        """What lies there has been dealt with."""
        path.unlink(missing_ok=True)

    def put_answer(self, name: str, report: CommitmentReport) -> None:
        """Lay out what the sender shall hear."""
        write_durably(self._answers / f"{name}.json", _bytes(_plain(report)))

    def hold_answer(self, name: str) -> CommitmentReport | None:
        """Take an answer in order to send it; None: it is not there (yet, or any more)."""
        held = self._answers / f"{name}.held"
        if not self._rename(f"{name}.json", held.name):
            return None
        return _report(json.loads(held.read_bytes()))

    def let_go(self, name: str) -> None:
        """The answer could not be sent: it is anybody's again."""
        self._rename(f"{name}.held", f"{name}.json")

    def mark_sent(self, name: str) -> None:
        """The sender has heard the answer."""
        self._rename(f"{name}.held", f"{name}.sent")

    def answer_state(self, name: str) -> AnswerState:
        """How far the answer is."""
        for suffix, state in (
            ("sent", AnswerState.SENT),
            ("held", AnswerState.HELD),
            ("json", AnswerState.WAITING),
        ):
            if (self._answers / f"{name}.{suffix}").exists():
                return state
        return AnswerState.ABSENT

    def forget_answer(self, name: str) -> None:
        """Nobody needs the answer any more."""
        for suffix in ("json", "held", "sent"):
            (self._answers / f"{name}.{suffix}").unlink(missing_ok=True)

    def _put(
        self,
        folder: Path,
        content: CommitmentReport | CommitmentRequest,
        calling_ae_title: str,
        now: datetime,
    ) -> str:
        name = f"{now:%Y%m%dT%H%M%S%f}Z-{uuid4().hex[:12]}"
        envelope = {"calling_ae_title": calling_ae_title, "received_at": now.isoformat()}
        write_durably(folder / f"{name}.json", _bytes(envelope | _plain(content)))
        return name

    def _rename(self, old: str, new: str) -> bool:
        try:
            (self._answers / old).rename(self._answers / new)
        except FileNotFoundError:
            return False
        fsync_folder(self._answers)
        return True


def _bytes(letter: dict[str, Any]) -> bytes:
    return json.dumps(letter).encode()


def _plain(content: CommitmentReport | CommitmentRequest) -> dict[str, Any]:
    def pair(reference: Reference) -> list[str]:
        return [reference.sop_class_uid, reference.sop_instance_uid]

    letter: dict[str, Any] = {"transaction_uid": content.transaction_uid}
    if isinstance(content, CommitmentRequest):
        letter["references"] = [pair(reference) for reference in content.references]
    else:
        letter["references"] = [pair(reference) for reference in content.committed]
        letter["failed"] = [[*pair(reference), reason] for reference, reason in content.failed]
    return letter


def _letters(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    if not folder.is_dir():
        return
    for path in sorted(folder.glob("*.json")):
        try:
            yield path, json.loads(path.read_bytes())
        except FileNotFoundError:
            continue  # another courier has just dealt with it
        except ValueError:
            path.rename(path.with_suffix(".unreadable"))
            _log.error("commitment file unreadable", action="commitment_unreadable", file=path.name)


def _envelope(letter: dict[str, Any]) -> tuple[str, datetime]:
    return letter["calling_ae_title"], datetime.fromisoformat(letter["received_at"])


def _report(letter: dict[str, Any]) -> CommitmentReport:
    failed = tuple(
        (Reference(sop_class, instance), reason) for sop_class, instance, reason in letter["failed"]
    )
    return CommitmentReport(letter["transaction_uid"], _references(letter["references"]), failed)


def _references(pairs: list[list[str]]) -> tuple[Reference, ...]:
    return tuple(Reference(*pair) for pair in pairs)
