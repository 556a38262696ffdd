"""The assemble stage: inbox files become rows of instances and studies; quiet studies complete."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import structlog

from dicom_node.assemble.header import Arrival, read_header, sender_of
from dicom_node.domain.clock import ClockWatch
from dicom_node.domain.study import Complete, CompletionPolicy, InstanceRecord, decide_completion
from dicom_node.errors import BadInput, short_uid
from dicom_node.failpoint import failpoint
from dicom_node.observe.audit import NOT_AUDITED, Audit, AuditEvent, StudyPart, Who
from dicom_node.store import studies
from dicom_node.store.database import Connection, Database
from dicom_node.store.files import keep_instance, link_durably, waiting_for_the_disk
from dicom_node.store.inbox import AssociationListing, remove_if_done, scan
from dicom_node.store.subjects import brought_by

BATCH = 64
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Assembler:
    """Moves received files from the inbox into the store and SQL, a batch at a time.

    The order makes every step repeatable: a second name in the store first, then the row, and only
    then is the inbox name removed. A file that is read again after a crash is a duplicate.

    Attributes
    ----------
    keywords
        DICOM keywords that the rules read, recorded with each instance.
    """

    database: Database
    inbox_dir: Path
    store_dir: Path
    policy: CompletionPolicy
    keywords: frozenset[str]
    clock: Callable[[], datetime]
    elapsed: Callable[[], float] = time.monotonic
    watch: ClockWatch = field(default_factory=ClockWatch)
    audit: Audit = NOT_AUDITED

    def step(self) -> bool:
        """Take in what lies in the inbox, then complete the studies that are due."""
        with waiting_for_the_disk():
            took = [self._take(listing) for listing in scan(self.inbox_dir)]
        return self._complete_due() or any(took)

    def _take(self, listing: AssociationListing) -> bool:
        for start in range(0, len(listing.files), BATCH):
            self._take_batch(listing.folder.name, listing.files[start : start + BATCH])
        if listing.ended is not None:
            with self.database.begin() as connection:
                studies.end_association(connection, listing.folder.name, at=self.clock())
            self._audit_received(listing.folder.name)
            remove_if_done(listing.folder)
        return bool(listing.files)

    def _audit_received(self, association: str) -> None:
        """Record what the association brought of each study; twice after a crash, never not."""
        with self.database.read() as connection:
            brought = brought_by(connection, association)
        for item in brought:
            read = StudyPart.of_file(self.store_dir / item.path)
            patient_id = read.patient_id if read is not None else None
            self.audit.record(
                AuditEvent.INSTANCES_RECEIVED,
                who=Who(ae_title=item.calling_ae_title),
                study=StudyPart(item.study_instance_uid, patient_id, item.sop_classes),
                association=association,
                new=sum(item.sop_classes.values()),
            )

    def _take_batch(self, association: str, files: Sequence[Path]) -> None:
        taken: list[tuple[Path, InstanceRecord]] = []
        rejected: list[tuple[Path, str]] = []
        for path in files:
            arrival = Arrival(association, datetime.fromtimestamp(path.stat().st_mtime, UTC))
            try:
                record = read_header(path, arrival, keywords=self.keywords)
            except BadInput as error:
                rejected.append((path, str(error)))
                continue
            failpoint("assemble.before_link")
            relative = keep_instance(self.store_dir, path, record.digest)
            taken.append((path, record.stored_at(relative)))
        kept = [self._quarantine(association, path) for path, _ in rejected]
        failpoint("assemble.after_link")
        with self.database.begin() as connection:
            outcomes = [self._record(connection, path, record) for path, record in taken]
            for (path, reason), relative in zip(rejected, kept, strict=True):
                studies.quarantine_file(
                    connection,
                    path=relative,
                    reason=reason,
                    association=association,
                    calling_ae_title=sender_of(path),
                    received_at=datetime.fromtimestamp(path.stat().st_mtime, UTC),
                )
            failpoint("assemble.before_commit")
        failpoint("assemble.after_commit")
        for path in files:
            path.unlink()
        failpoint("assemble.after_unlink")
        _report([record for _, record in taken], outcomes, rejected)

    def _record(self, connection: Connection, path: Path, record: InstanceRecord) -> str:
        outcome = studies.record_instance(connection, record)
        if outcome == "restored":  # retention may have removed the file a moment ago
            keep_instance(self.store_dir, path, record.digest)
        return outcome

    def _quarantine(self, association: str, path: Path) -> str:
        """Give an unreadable file a second name under `quarantine/`; harmless if done twice."""
        relative = f"quarantine/{association}-{path.name}"
        link_durably(path, self.store_dir / relative)
        return relative

    def _complete_due(self) -> bool:
        now = self.clock()
        jump = self.watch.jump(now, self.elapsed())
        with self.database.read() as connection:
            open_studies = studies.open_studies(connection)
        if jump or any(study.latest > now for study in open_studies):
            with self.database.begin() as connection:
                studies.shift_open_studies(connection, by=jump, now=now)
                open_studies = studies.open_studies(connection)
            _log.warning("the clock was set", action="clock_set", seconds=jump.total_seconds())
        due = []
        for study in open_studies:
            decision = decide_completion(
                self.policy,
                first_received_at=study.first_received_at,
                last_received_at=study.last_received_at,
                association_ends=study.association_ends,
                now=now,
            )
            if isinstance(decision, Complete):
                due.append((study, decision.because))
        if not due:
            return False
        with self.database.begin() as connection:
            for study, because in due:
                studies.complete_study(connection, study, because=because, now=now)
        failpoint("assemble.after_complete")
        return True


def _report(
    records: Sequence[InstanceRecord],
    outcomes: Sequence[str],
    rejected: Sequence[tuple[Path, str]],
) -> None:
    for study in {record.study_instance_uid for record in records}:
        of_study = [
            outcome
            for record, outcome in zip(records, outcomes, strict=True)
            if record.study_instance_uid == study
        ]
        tally = {outcome: of_study.count(outcome) for outcome in sorted(set(of_study))}
        _log.info(
            "instances recorded", action="instances_recorded", study=short_uid(study), **tally
        )
    for path, reason in rejected:
        _log.warning("file quarantined", action="file_quarantined", file=path.name, reason=reason)
