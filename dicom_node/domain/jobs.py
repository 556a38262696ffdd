"""The life of a job as one table: `(state, event) -> state`. Anything absent is an error."""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """Where a job stands; the words that users and scripts see."""

    QUEUED = "queued"
    RUNNING = "running"
    SCORED = "scored"
    DELIVERED = "delivered"
    REFUSED = "refused"
    PARKED = "parked"
    FAILED = "failed"


class JobStage(StrEnum):
    """Which stage has the job next; a crash after `SCORE` does not predict again."""

    WAIT_FOR_MODEL = "wait_for_model"
    SCORE = "score"
    REPORT = "report"
    DONE = "done"


class JobEvent(StrEnum):
    """What can happen to a job."""

    CLAIM = "claim"
    PREDICT = "predict"
    REPORT = "report"
    REPORT_REFUSAL = "report_refusal"
    RETRY_LATER = "retry_later"
    LEASE_EXPIRED = "lease_expired"
    QUARANTINE = "quarantine"
    PARK = "park"
    FAIL = "fail"
    CONFIRM = "confirm"
    GIVE_UP = "give_up"
    DISPUTE = "dispute"
    DUPLICATE = "duplicate"
    REBUILD = "rebuild"
    RESUME_SCORING = "resume_scoring"
    RESUME_DELIVERY = "resume_delivery"


WAIVABLE = frozenset({JobState.SCORED, JobState.REFUSED, JobState.PARKED, JobState.FAILED})
"""States in which a person may release a job's files: nothing happens to it by itself any more."""


class InvalidTransition(Exception):
    """An event that the state does not allow: a defect in the caller, or a lost lease."""


_S, _E = JobState, JobEvent
TRANSITIONS: dict[tuple[JobState, JobEvent], JobState] = {
    (_S.QUEUED, _E.CLAIM): _S.RUNNING,
    (_S.RUNNING, _E.PREDICT): _S.QUEUED,
    (_S.RUNNING, _E.REPORT): _S.SCORED,
    (_S.RUNNING, _E.REPORT_REFUSAL): _S.REFUSED,
    (_S.RUNNING, _E.RETRY_LATER): _S.QUEUED,
    (_S.RUNNING, _E.LEASE_EXPIRED): _S.QUEUED,
    (_S.RUNNING, _E.QUARANTINE): _S.PARKED,
    (_S.RUNNING, _E.PARK): _S.PARKED,
    (_S.RUNNING, _E.FAIL): _S.FAILED,
    (_S.SCORED, _E.CONFIRM): _S.DELIVERED,
    (_S.SCORED, _E.GIVE_UP): _S.PARKED,
    (_S.REFUSED, _E.CONFIRM): _S.REFUSED,
    (_S.REFUSED, _E.GIVE_UP): _S.REFUSED,
    (_S.PARKED, _E.GIVE_UP): _S.PARKED,
    (_S.PARKED, _E.RESUME_SCORING): _S.QUEUED,
    (_S.PARKED, _E.RESUME_DELIVERY): _S.SCORED,
    (_S.FAILED, _E.RESUME_SCORING): _S.QUEUED,
    (_S.QUEUED, _E.DISPUTE): _S.PARKED,
    (_S.QUEUED, _E.DUPLICATE): _S.REFUSED,
    (_S.RUNNING, _E.DISPUTE): _S.PARKED,
    (_S.SCORED, _E.DISPUTE): _S.PARKED,
    (_S.REFUSED, _E.DISPUTE): _S.REFUSED,
    (_S.SCORED, _E.REBUILD): _S.QUEUED,
    (_S.PARKED, _E.REBUILD): _S.QUEUED,
    (_S.REFUSED, _E.REBUILD): _S.QUEUED,
    (_S.REFUSED, _E.RESUME_SCORING): _S.QUEUED,
    (_S.REFUSED, _E.RESUME_DELIVERY): _S.REFUSED,
}


def next_state(state: JobState, event: JobEvent) -> JobState:
    """Return the state after `event`.

    Raises
    ------
    InvalidTransition
        The table has no such row.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise InvalidTransition(f"a job in state {state.value} cannot take {event.value}") from None
