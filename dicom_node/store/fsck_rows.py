"""Rows in states that nothing brings about, or that somebody should have noticed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import partial

from sqlalchemy import ColumnElement, and_, exists, or_, select

from dicom_node.domain.jobs import JobStage, JobState
from dicom_node.store.deliveries import DELIVERED, OPEN
from dicom_node.store.fsck import Problem, Survey
from dicom_node.store.recovery import return_expired
from dicom_node.store.settlements import settle_job
from dicom_node.store.tables import deliveries, job_inputs, jobs, results

_UNNOTICED = timedelta(minutes=5)
"""A scorer that runs returns expired leases several times a second."""

_open = exists().where(deliveries.c.job_id == jobs.c.id, deliveries.c.state.in_(OPEN))
_any_delivery = exists().where(deliveries.c.job_id == jobs.c.id)
_undelivered = exists().where(deliveries.c.job_id == jobs.c.id, deliveries.c.state != DELIVERED)
_any_input = exists().where(job_inputs.c.job_id == jobs.c.id)
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
    "job_without_images": (
        "a job of a model names no image",
        and_(jobs.c.model != "", ~_any_input),
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
