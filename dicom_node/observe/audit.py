"""The audit trail: who sent, scored, viewed, exported and changed what; never in the logs.

Each process that touches patients' data holds an `AuditTrail`, made by the composition root. The
records may name patients (Patient ID, Study Instance UID), as PS3.15 A.5 asks for; they lie apart,
for the node's own user alone, and need no database.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from dicom_node import __version__
from dicom_node.observe.audit_chain import RECOVERED, Chain
from dicom_node.observe.audit_seen import Seen

_log = structlog.get_logger()


class AuditEvent(StrEnum):
    """What is recorded; `audit_message.py` tells the DICOM message of each."""

    APPLICATION_STARTED = "application_started"
    APPLICATION_STOPPED = "application_stopped"
    ASSOCIATION_ACCEPTED = "association_accepted"
    ASSOCIATION_ENDED = "association_ended"
    ASSOCIATION_REFUSED = "association_refused"
    NODE_AUTHENTICATION_FAILED = "node_authentication_failed"
    INSTANCES_RECEIVED = "instances_received"
    STUDY_SCORED = "study_scored"
    RESULTS_SENT = "results_sent"
    RESULTS_VIEWED = "results_viewed"
    RESULTS_EXPORTED = "results_exported"
    CONFIGURATION_CHANGED = "configuration_changed"
    MODEL_CHANGED = "model_changed"
    DECISION_BY_PERSON = "decision_by_person"
    DATA_DELETED = "data_deleted"
    AUDIT_LOG_USED = "audit_log_used"
    RECORDS_LOST = "records_lost"
    TRAIL_RECOVERED = RECOVERED


class Outcome(IntEnum):
    """EventOutcomeIndicator (PS3.15 A.5.1)."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    SERIOUS_FAILURE = 8


@dataclass(frozen=True, slots=True)
class Who:
    """The other side: a peer by its AE title, a person by the user name, either at an address."""

    ae_title: str | None = None
    user: str | None = None
    host: str | None = None


@dataclass(frozen=True, slots=True)
class StudyPart:
    """What of which study.

    Attributes
    ----------
    patient_id
        Patient ID (0010,0020) as the data set has it; None: it has none or was not read.
    sop_classes
        SOP Class UID to number of instances.
    """

    study_instance_uid: str
    patient_id: str | None = None
    sop_classes: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of_file(cls, path: Path, *, count: int = 1) -> StudyPart | None:
        """Read one of `count` alike data sets; None if the file is gone or not readable."""
        from pydicom import dcmread  # not for every command: it takes a third of a second

        wanted = ["StudyInstanceUID", "PatientID", "SOPClassUID"]
        try:
            header = dcmread(path, stop_before_pixels=True, specific_tags=wanted)
            return cls(
                str(header.StudyInstanceUID),
                str(header.get("PatientID") or "") or None,
                {str(header.SOPClassUID): count},
            )
        except Exception as error:  # noqa: BLE001 - whatever pydicom raises: the record is written
            _log.debug("not read for the audit trail", reason=type(error).__name__)
            return None


class Audit(Protocol):
    """What the stages see of the trail."""

    def record(
        self,
        event: AuditEvent,
        *,
        outcome: Outcome = Outcome.SUCCESS,
        who: Who | None = None,
        study: StudyPart | None = None,
        **facts: str | int | bool | None,
    ) -> None:
        """Append one record; `facts` is what else is known, under names that stay."""


class NotAudited:
    """Stands in where nobody asks who did it: a stage that a test drives by hand."""

    def record(self, event: AuditEvent, **_: object) -> None:
        """Forget it."""


NOT_AUDITED: Final = NotAudited()

# A process may end, and the machine lose power, a moment later: these wait for the disk. The
# others reach it with the next of these.
_NOT_AWAITED: Final = frozenset({AuditEvent.ASSOCIATION_ACCEPTED, AuditEvent.ASSOCIATION_REFUSED})


class AuditTrail:
    """Writes records; safe to use from several threads, beside any number of processes.

    A record that cannot be written stops nobody's care: it is logged, counted, and the count is the
    next record.

    Parameters
    ----------
    folder
        `<home>/audit`.
    source
        Who reports: AE title and host name of this node.
    process
        Stage or command.
    """

    def __init__(
        self, folder: Path, *, source: str, process: str, clock: Callable[[], datetime]
    ) -> None:
        self._chain = Chain(folder)
        self._seen = Seen(folder)
        self._source = source
        self._process = process
        self._clock = clock
        self._lock = threading.Lock()
        self._lost = 0

    def record(
        self,
        event: AuditEvent,
        *,
        outcome: Outcome = Outcome.SUCCESS,
        who: Who | None = None,
        study: StudyPart | None = None,
        **facts: str | int | bool | None,
    ) -> None:
        """Append one record; a failing disk is logged, not raised."""
        with self._lock:
            lost, self._lost = self._lost, 0
        try:
            if lost:
                self._append(AuditEvent.RECORDS_LOST, Outcome.SERIOUS_FAILURE, {"lost": lost})
                lost = 0
            self._append(event, outcome, facts, who=who, study=study)
        except OSError as error:
            with self._lock:
                self._lost += lost + 1
            _log.error(
                "audit record not written",
                action="audit_not_written",
                event_name=event.value,
                reason=f"errno {error.errno}",
            )

    def _append(
        self,
        event: AuditEvent,
        outcome: Outcome,
        facts: Mapping[str, Any],
        *,
        who: Who | None = None,
        study: StudyPart | None = None,
    ) -> None:
        now = self._clock().astimezone(UTC)
        values: dict[str, Any] = {
            "at": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "source": self._source,
            "process": self._process,
            "pid": os.getpid(),
            "event": event.value,
            "outcome": int(outcome),
        }
        if who is not None:
            values["who"] = {key: value for key, value in asdict(who).items() if value}
        if study is not None:
            values["study"] = asdict(study)
        if known := {name: value for name, value in facts.items() if value is not None}:
            values["facts"] = known
        self._chain.append(values, day=now.date(), durable=event not in _NOT_AWAITED)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Record the start of this process and, unless it is killed, its end."""
        self.record(AuditEvent.APPLICATION_STARTED, version=__version__)
        try:
            yield
        except BaseException:
            self.record(AuditEvent.APPLICATION_STOPPED, outcome=Outcome.SERIOUS_FAILURE)
            raise
        self.record(AuditEvent.APPLICATION_STOPPED)

    def note_digest(self, event: AuditEvent, name: str, digest: str) -> None:
        """Record a configuration or model, unless this digest is the last one recorded of it.

        Parameters
        ----------
        name
            What has the digest: `configuration`, `routes`, `model cxr_pneumonia`.
        digest
            SHA-256; empty: it is refused or gone.
        """
        try:
            before = self._seen.exchange(name, digest)
        except OSError:
            before = None  # better twice than not at all
        if before != digest:
            self.record(event, name=name, sha256=digest, before=before)
