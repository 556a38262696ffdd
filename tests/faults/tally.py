"""What was acknowledged, scored and delivered, and what of it was lost, doubled or stuck."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field, fields
from hashlib import sha256
from pathlib import Path

from pydicom import dcmread
from sqlalchemy import select

from dicom_node.config_destinations import DestinationConfig
from dicom_node.deliver.dimse import SendOutcome, send_files
from dicom_node.store.database import Database, DatabaseUnavailable
from dicom_node.store.inbox import scan
from dicom_node.store.tables import instances, jobs
from tests.e2e.harness import StoreScp

RESULTS_OF_A_JOB = 2  # one SR and one SC
RESEND_SECONDS = 60.0


def send_until_acknowledged(
    node: DestinationConfig,
    files: Sequence[Path],
    *,
    on_success: Callable[[int], None] = lambda _count: None,
    seconds: float = RESEND_SECONDS,
) -> int:
    """Send as a modality does: what is not answered with success is sent again.

    Parameters
    ----------
    on_success
        Called after each success with their number so far.

    Returns
    -------
    int
        How many objects had to be sent more than once.
    """
    waiting = list(files)
    acknowledged = 0
    again: set[Path] = set()

    def settle(path: Path, outcome: SendOutcome) -> None:
        nonlocal acknowledged
        if outcome.delivered:
            acknowledged += 1
            waiting.remove(path)
            on_success(acknowledged)
        else:
            again.add(path)

    deadline = time.monotonic() + seconds
    while waiting:
        assert time.monotonic() < deadline, f"{len(waiting)} objects were never taken"
        send_files(node, "MODALITY", list(waiting), settle)
        if waiting:
            time.sleep(0.2)
    return len(again)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the matrix. The last three must be zero.

    Attributes
    ----------
    resent
        Result objects that the archive was given twice with the same bytes: allowed, since a
        courier that dies between the object and its row cannot know, and an archive keeps one.
    """

    what: str
    rounds: int
    acknowledged: int
    scored: int
    delivered: int
    resent: int
    lost: int
    duplicated: int
    stuck: int

    @property
    def clean(self) -> bool:
        return not (self.lost or self.duplicated or self.stuck)


@dataclass(slots=True)
class Archive:
    """The files of a `storescp` that keeps every object it gets, however often."""

    scp: StoreScp
    _known: dict[Path, tuple[str, str, str]] = field(default_factory=dict)

    def receipts(self) -> list[tuple[str, str, str]]:
        """(study, SOP Instance UID, digest of the data set) of every object that came."""
        for path in self.scp.files():
            if path not in self._known and not path.name.endswith(".part"):
                made = dcmread(path)
                digest = sha256(made.to_json().encode()).hexdigest()
                self._known[path] = (made.StudyInstanceUID, made.SOPInstanceUID, digest)
        return list(self._known.values())


def settled(database: Database, studies: Iterable[str]) -> bool:
    """Whether each study has a job and all its jobs are delivered."""
    wanted = set(studies)
    try:
        with database.read() as connection:
            found = connection.execute(
                select(jobs.c.study_instance_uid, jobs.c.state).where(
                    jobs.c.study_instance_uid.in_(wanted)
                )
            ).all()
    except DatabaseUnavailable:
        return False
    return {row.study_instance_uid for row in found} == wanted and all(
        row.state == "delivered" for row in found
    )


def tally(
    what: str, rounds: int, database: Database, store: Path, archive: Archive, sent: Sequence[Path]
) -> Row:
    """Count what became of the acknowledged objects in `sent`, one study each."""
    headers = [dcmread(path, stop_before_pixels=True) for path in sent]
    studies = {header.StudyInstanceUID: header.SOPInstanceUID for header in headers}
    receipts = [item for item in archive.receipts() if item[0] in studies]
    with database.read() as connection:
        rows = connection.execute(
            select(jobs.c.study_instance_uid, jobs.c.state).where(
                jobs.c.study_instance_uid.in_(studies)
            )
        ).all()
        kept = connection.execute(
            select(instances.c.sop_instance_uid, instances.c.path).where(
                instances.c.sop_instance_uid.in_(studies.values())
            )
        ).all()
    there = {row.sop_instance_uid for row in kept if (store / row.path).is_file()}
    objects = {uid: {s for s, sop, _ in receipts if sop == uid} for _, uid, _ in receipts}
    of_study = {
        study: {(sop, digest) for s, sop, digest in receipts if s == study} for study in studies
    }
    done = {row.study_instance_uid for row in rows if row.state == "delivered"}
    per_study = [row.study_instance_uid for row in rows]
    return Row(
        what=what,
        rounds=rounds,
        acknowledged=len(studies),
        scored=sum(row.state in {"scored", "delivered"} for row in rows),
        delivered=sum(len(of_study[study]) == RESULTS_OF_A_JOB for study in studies),
        resent=len(receipts) - len(objects),
        lost=len(set(studies.values()) - there)
        + sum(len(of_study[study]) < RESULTS_OF_A_JOB for study in done),
        duplicated=len(per_study)
        - len(set(per_study))
        + sum(max(0, len(found) - RESULTS_OF_A_JOB) for found in of_study.values()),
        stuck=len(studies.keys() - done),
    )


def left_in_inbox(inbox: Path) -> list[str]:
    """Folders of associations that are still there; none once all is quiet."""
    return [listing.folder.name for listing in scan(inbox)]


def print_matrix(title: str, rows: Iterable[Row]) -> None:
    """Print rows as a Markdown table."""
    names = [item.name for item in fields(Row)]
    print(f"\n{title}\n")
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))
    for row in rows:
        print("| " + " | ".join(str(value) for value in astuple(row)) + " |", flush=True)
