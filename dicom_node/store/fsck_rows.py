"""Rows in states that nothing brings about, and what processes that died left lying around."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

from sqlalchemy import ColumnElement, and_, exists, or_, select

from dicom_node.domain.jobs import JobStage, JobState
from dicom_node.store.deliveries import DELIVERED, OPEN
from dicom_node.store.files import ROOMS
from dicom_node.store.fsck import GRACE, Problem, Survey
from dicom_node.store.inbox import Inbox, scan, unowned_folders
from dicom_node.store.recovery import return_expired
from dicom_node.store.settlements import settle_job
from dicom_node.store.tables import deliveries, jobs, results

_UNNOTICED = timedelta(minutes=5)
"""A scorer that runs returns expired leases several times a second."""

_open = exists().where(deliveries.c.job_id == jobs.c.id, deliveries.c.state.in_(OPEN))
_any_delivery = exists().where(deliveries.c.job_id == jobs.c.id)
_undelivered = exists().where(deliveries.c.job_id == jobs.c.id, deliveries.c.state != DELIVERED)
_any_result = exists().where(results.c.job_id == jobs.c.id)

_IMPOSSIBLE: dict[str, tuple[str, ColumnElement[bool]]] = {
    "held_by_nobody": (
        "a job runs without a lease, or has one without running",
        (jobs.c.state == JobState.RUNNING.value) != jobs.c.lease_token.is_not(None),
    ),
    "queued_when_done": (
        "a job waits in a queue that nobody reads",
        and_(jobs.c.state == JobState.QUEUED.value, jobs.c.stage == JobStage.DONE.value),
    ),
    "delivered_too_early": (
        "a job counts as delivered but a destination has not confirmed",
        and_(jobs.c.state == JobState.DELIVERED.value, _undelivered),
    ),
    "scored_without_results": (
        "a job counts as scored but has no result",
        and_(jobs.c.state == JobState.SCORED.value, ~_any_result),
    ),
}


def check_jobs(survey: Survey) -> Iterator[Problem]:
    """Jobs in impossible states; none of them is known to happen, so a person must look."""
    for kind, (what, condition) in _IMPOSSIBLE.items():
        found = _numbers(survey, condition)
        remedy = "look at `jobs show`, and report it: this is a defect"
        for job_id in found:
            yield Problem(kind, what, remedy, jobs=(job_id,))


def _numbers(survey: Survey, condition: ColumnElement[bool]) -> list[int]:
    with survey.database.read() as connection:
        query = select(jobs.c.id).where(condition).order_by(jobs.c.id)
        return list(connection.execute(query).scalars())


def check_unsettled(survey: Survey) -> Iterator[Problem]:
    """Jobs whose last delivery is settled and that did not notice."""
    ended = or_(
        jobs.c.state == JobState.SCORED.value,
        and_(jobs.c.state == JobState.REFUSED.value, jobs.c.delivered_at.is_(None), ~_undelivered),
    )
    for job_id in _numbers(survey, and_(ended, _any_delivery, ~_open)):
        what = "every delivery of a job is settled, the job is not"
        yield Problem(
            "unsettled",
            what,
            "--repair settles it",
            jobs=(job_id,),
            repair=partial(_settle, survey, job_id),
        )


def _settle(survey: Survey, job_id: int) -> str:
    with survey.database.begin() as connection:
        settle_job(connection, job_id, now=survey.now)
    return "settled"


def check_leases(survey: Survey) -> Iterator[Problem]:
    """Leases that ran out and that no scorer has noticed."""
    running = jobs.c.state == JobState.RUNNING.value
    for job_id in _numbers(survey, and_(running, jobs.c.lease_until < survey.now - _UNNOTICED)):
        what = "a job's lease ran out and no scorer has noticed: does one run?"
        yield Problem(
            "expired_lease",
            what,
            "--repair returns it",
            jobs=(job_id,),
            repair=partial(_return, survey),
        )


def _return(survey: Survey) -> str:
    with survey.database.begin() as connection:
        return_expired(connection, max_attempts=survey.max_attempts, now=survey.now)
    return "returned to the queue"


def check_leftovers(survey: Survey) -> Iterator[Problem]:
    """Half-written files, and inbox folders of receivers that died."""
    for room in ROOMS:
        for path in sorted((survey.store_dir / room).rglob("*.part")):
            if survey.is_old(path):
                relative = path.relative_to(survey.store_dir).as_posix()
                what = "a half-written file, never named by any row"
                yield Problem(
                    "part",
                    what,
                    "--repair removes it",
                    relative,
                    repair=partial(_remove, path),
                )
    for folder in unowned_folders(survey.inbox_dir):
        yield Problem(
            "unowned_inbox",
            "a receiver died and left an association's folder",
            "--repair marks it as aborted; its images are assembled either way",
            folder.name,
            repair=partial(_mark_orphans, survey),
        )
    for listing in scan(survey.inbox_dir):
        if any(survey.is_old(path) for path in listing.files):
            hours = GRACE.total_seconds() / 3600
            what = f"images lie in the inbox for more than {hours:g} h: does `assemble` run?"
            remedy = "start it, and look at its log"
            yield Problem("waiting_in_inbox", what, remedy, listing.folder.name)


def _remove(path: Path) -> str:
    path.unlink(missing_ok=True)
    return "removed"


def _mark_orphans(survey: Survey) -> str:
    Inbox(survey.inbox_dir).mark_orphans()
    return "marked as aborted"
