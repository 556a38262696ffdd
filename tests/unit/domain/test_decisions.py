"""Completion, retry and the job table: pure decisions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.domain.jobs import TRANSITIONS, InvalidTransition, JobEvent, JobState, next_state
from dicom_node.domain.retry import GiveUp, RetryAt, RetryPolicy, decide_retry
from dicom_node.domain.study import (
    Complete,
    CompletionPolicy,
    WaitUntil,
    decide_completion,
    input_digest,
)

T0 = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = CompletionPolicy(timedelta(seconds=2), timedelta(seconds=20), timedelta(minutes=10))


def after(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("last", "ends", "now", "complete"),
    [
        (5, [6], 7.9, False),  # released, but not yet 2 s ago
        (5, [6], 8, True),
        (5, [6, None], 8, False),  # a second association is still open
        (5, [6, None], 25, True),  # ... and quiet for 20 s
        (5, [], 24, False),
        (590, [None], 599, False),
        (599, [None], 600, True),  # images keep coming, but 10 min are enough
        (7, [6], 8.5, False),  # an image later than the release it is counted with
    ],
)
def test_a_study_is_complete_by_release_quiet_time_or_limit(
    last: float, ends: list[float | None], now: float, complete: bool
) -> None:
    decision = decide_completion(
        POLICY,
        first_received_at=T0,
        last_received_at=after(last),
        association_ends=[None if end is None else after(end) for end in ends],
        now=after(now),
    )
    assert isinstance(decision, Complete) == complete
    if isinstance(decision, WaitUntil):
        assert decision.when > after(now)


def test_naive_times_are_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        decide_completion(
            POLICY,
            first_received_at=T0,
            last_received_at=T0,
            association_ends=[],
            now=T0.replace(tzinfo=None),
        )


@given(attempts=st.integers(1, 200), jitter=st.floats(0, 0.999))
def test_the_pause_grows_but_never_beyond_the_ceiling(attempts: int, jitter: float) -> None:
    policy = RetryPolicy()
    decision = decide_retry(policy, attempts=attempts, first_attempt_at=T0, now=T0, jitter=jitter)
    assert isinstance(decision, RetryAt)
    assert policy.first / 2 <= decision.when - T0 <= policy.ceiling


def test_retry_gives_up_by_age_not_by_count() -> None:
    policy = RetryPolicy(give_up_after=timedelta(hours=1))
    late = T0 + timedelta(hours=1)
    assert isinstance(
        decide_retry(policy, attempts=1, first_attempt_at=T0, now=late, jitter=0), GiveUp
    )


def test_every_state_can_be_reached_and_the_end_is_an_end() -> None:
    reached = {JobState.QUEUED} | set(TRANSITIONS.values())
    assert reached == set(JobState)
    for event in JobEvent:
        with pytest.raises(InvalidTransition):
            next_state(JobState.DELIVERED, event)


def test_the_input_digest_does_not_depend_on_order_and_joins_unambiguously() -> None:
    assert input_digest([("a", "b"), ("c", "d")]) == input_digest([("c", "d"), ("a", "b")])
    assert input_digest([("ab", "c")]) != input_digest([("a", "bc")])
