"""The assemble stage: inbox files become rows of instances and studies; quiet studies complete."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import structlog

from dicom_node.assemble.header import Arrival, read_header, sender_of
from dicom_node.assemble.sick import SickFiles, name_durably, name_of
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
class _Rejected:
    """A file that becomes no instance, and what is known of it."""

    path: Path
    relative: str
    reason: str
    sender: str
    received_at: datetime

    @classmethod
    def of(cls, path: Path, arrival: Arrival, reason: str) -> _Rejected:
        relative = f"quarantine/{arrival.association}-{path.name}"
        return cls(path, relative, reason, sender_of(path), arrival.received_at)


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
    sick: SickFiles = field(default_factory=SickFiles)

    def step(self) -> bool:
        """Take in what lies in the inbox, then complete the studies that are due."""
        with waiting_for_the_disk():
            listings = scan(self.inbox_dir, on_unreadable=self._pass_over)
            took = [self._take(listing) for listing in listings]
        return self._complete_due() or any(took)

    def _pass_over(self, folder: Path, error: OSError) -> None:
        if not self.sick.rests(folder, now=self.elapsed()):
            self.sick.failed(folder, error, now=self.elapsed())

    def _take(self, listing: AssociationListing) -> bool:
        if self.sick.rests(listing.folder, now=self.elapsed()):
            return False
        due = [path for path in listing.files if not self.sick.rests(path, now=self.elapsed())]
        done = 0
        for start in range(0, len(due), BATCH):
            done += self._take_batch(listing.folder.name, due[start : start + BATCH])
        if listing.ended is not None and (done or not listing.files):
            with self.database.begin() as connection:
                studies.end_association(connection, listing.folder.name, at=self.clock())
            if done == len(listing.files):
                self._audit_received(listing.folder.name)
                self._remove_folder(listing.folder)
        return done > 0

    def _remove_folder(self, folder: Path) -> None:
        try:
            remove_if_done(folder)
        except OSError as error:
            self.sick.failed(folder, error, now=self.elapsed())
        else:
            self.sick.forget(folder)

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

    def _take_batch(self, association: str, files: Sequence[Path]) -> int:
        """Take files in; returns how many have left the inbox. One that is sick stays, or moves."""
        taken: list[tuple[Path, InstanceRecord]] = []
        rejected: list[_Rejected] = []
        for path in files:
            arrival = Arrival(association, self.clock())
            try:
                arrival = Arrival(association, datetime.fromtimestamp(path.stat().st_mtime, UTC))
                try:
                    taken.append((path, self._keep(path, arrival)))
                except BadInput as error:
                    rejected.append(self._reject(path, arrival, str(error)))
            except OSError as error:
                rejected += self._set_aside(path, arrival, error)
        failpoint("assemble.after_link")
        with self.database.begin() as connection:
            outcomes = [self._record(connection, path, record) for path, record in taken]
            for item in rejected:
                studies.quarantine_file(
                    connection,
                    path=item.relative,
                    reason=item.reason,
                    association=association,
                    calling_ae_title=item.sender,
                    received_at=item.received_at,
                )
            failpoint("assemble.before_commit")
        failpoint("assemble.after_commit")
        recorded = [path for path, _ in taken] + [item.path for item in rejected]
        done = sum(self._remove(path) for path in recorded)
        failpoint("assemble.after_unlink")
        _report([record for _, record in taken], outcomes, rejected)
        return done

    def _keep(self, path: Path, arrival: Arrival) -> InstanceRecord:
        record = read_header(path, arrival, keywords=self.keywords)
        with waiting_for_the_disk():
            failpoint("assemble.before_link")
            return record.stored_at(keep_instance(self.store_dir, path, record.digest))

    def _record(self, connection: Connection, path: Path, record: InstanceRecord) -> str:
        outcome = studies.record_instance(connection, record)
        if outcome == "restored":  # retention may have removed the file a moment ago
            keep_instance(self.store_dir, path, record.digest)
        return outcome

    def _reject(self, path: Path, arrival: Arrival, reason: str) -> _Rejected:
        """Give an unreadable file a second name under `quarantine/`; harmless if done twice."""
        item = _Rejected.of(path, arrival, reason)
        with waiting_for_the_disk():
            link_durably(path, self.store_dir / item.relative)
        return item

    def _set_aside(self, path: Path, arrival: Arrival, error: OSError) -> list[_Rejected]:
        """Do the same for a file that the disk does not give, once it has had its chances."""
        if not self.sick.failed(path, error, now=self.elapsed()):
            return []
        item = _Rejected.of(path, arrival, f"the disk does not give it: {name_of(error)}")
        try:
            name_durably(path, self.store_dir / item.relative)
        except OSError:
            return []  # it stays, and is tried again now and then
        return [item]

    def _remove(self, path: Path) -> bool:
        """Take away the inbox name; where that fails, the file is met again as a duplicate."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self.sick.failed(path, error, now=self.elapsed())
            return False
        self.sick.forget(path)
        return True

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
    rejected: Sequence[_Rejected],
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
    for item in rejected:
        _log.warning(
            "file quarantined",
            action="file_quarantined",
            file=item.path.name,
            reason=item.reason,
        )
