"""When to try again: a pure decision from policy, attempt, age and a random number."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with full jitter above a floor, capped in step and in total age.

    Attributes
    ----------
    first, ceiling
        Shortest and longest wait between two attempts.
    give_up_after
        Age since the first attempt beyond which a person must decide.
    """

    first: timedelta = timedelta(seconds=5)
    ceiling: timedelta = timedelta(minutes=15)
    give_up_after: timedelta = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class RetryAt:
    """Try again at this time."""

    when: datetime


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Leave it to a person; says why."""

    reason: str


def decide_retry(
    policy: RetryPolicy, *, attempts: int, first_attempt_at: datetime, now: datetime, jitter: float
) -> RetryAt | GiveUp:
    """Decide what follows the failed attempt number `attempts` (1-based).

    Parameters
    ----------
    jitter
        Random number in [0, 1), given by the caller.

    Raises
    ------
    ValueError
        A naive datetime, an attempt below 1 or a jitter outside [0, 1).
    """
    if now.tzinfo is None or first_attempt_at.tzinfo is None:
        raise ValueError("decide_retry needs aware datetimes")
    if attempts < 1 or not 0 <= jitter < 1:
        raise ValueError(f"attempts {attempts} must be >= 1 and jitter {jitter} in [0, 1)")
    if now - first_attempt_at >= policy.give_up_after:
        return GiveUp(f"gave up after {attempts} attempts in {policy.give_up_after}")
    step = policy.first * 2.0 ** min(attempts - 1, 30) if attempts <= 31 else policy.ceiling
    step = min(step, policy.ceiling)
    return RetryAt(now + step * (0.5 + jitter / 2))
