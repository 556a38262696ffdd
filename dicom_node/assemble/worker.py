"""The assemble stage: inbox files become rows of instances and studies; quiet studies complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from dicom_node.assemble.header import Arrival, read_header, sender_of
from dicom_node.domain.study import Complete, CompletionPolicy, InstanceRecord, decide_completion
from dicom_node.errors import BadInput, short_uid
from dicom_node.store import studies
from dicom_node.store.database import Database
from dicom_node.store.files import keep_instance, link_durably
from dicom_node.store.inbox import AssociationListing, remove_if_done, scan

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

    def step(self) -> bool:
        """Take in what lies in the inbox, then complete the studies that are due."""
        took = [self._take(listing) for listing in scan(self.inbox_dir)]
        return self._complete_due() or any(took)

    def _take(self, listing: AssociationListing) -> bool:
        for start in range(0, len(listing.files), BATCH):
            self._take_batch(listing.folder.name, listing.files[start : start + BATCH])
        if listing.ended is not None:
            with self.database.begin() as connection:
                studies.end_association(connection, listing.folder.name, at=self.clock())
            remove_if_done(listing.folder)
        return bool(listing.files)

    def _take_batch(self, association: str, files: Sequence[Path]) -> None:
        records: list[InstanceRecord] = []
        rejected: list[tuple[Path, str]] = []
        for path in files:
            arrival = Arrival(association, datetime.fromtimestamp(path.stat().st_mtime, UTC))
            try:
                record = read_header(path, arrival, keywords=self.keywords)
            except BadInput as error:
                rejected.append((path, str(error)))
                continue
            records.append(record.stored_at(keep_instance(self.store_dir, path, record.digest)))
        kept = [self._quarantine(association, path) for path, _ in rejected]
        with self.database.begin() as connection:
            outcomes = [studies.record_instance(connection, record) for record in records]
            for (path, reason), relative in zip(rejected, kept, strict=True):
                studies.quarantine_file(
                    connection,
                    path=relative,
                    reason=reason,
                    association=association,
                    calling_ae_title=sender_of(path),
                    received_at=datetime.fromtimestamp(path.stat().st_mtime, UTC),
                )
        for path in files:
            path.unlink()
        _report(records, outcomes, rejected)

    def _quarantine(self, association: str, path: Path) -> str:
        """Give an unreadable file a second name under `quarantine/`; harmless if done twice."""
        relative = f"quarantine/{association}-{path.name}"
        link_durably(path, self.store_dir / relative)
        return relative

    def _complete_due(self) -> bool:
        now = self.clock()
        with self.database.read() as connection:
            open_studies = studies.open_studies(connection)
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
