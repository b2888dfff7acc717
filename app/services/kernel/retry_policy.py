"""When a job that did not succeed runs again.

Transient failures: exponential backoff with full jitter (Brooker, "Exponential Backoff And
Jitter", AWS Architecture Blog, 2015), at most 5 attempts.  Recordings that are not ready: 1, 2, 5,
10 … 60 minutes, for up to 24 hours.

A source's own Retry-After is waited for in full, and then the jitter: jobs that were told the same
do not come back together.
"""

import random
from datetime import timedelta

MAX_ATTEMPTS = 5
BASE_SECONDS = 2.0
CAP_SECONDS = 300.0
NOT_READY_MINUTES = (1, 2, 5, 10, 20, 40, 60)
NOT_READY_FOR = timedelta(hours=24)
MAX_RETRY_AFTER_SECONDS = 3600.0
RETRY_AFTER_SPREAD = 0.1


def backoff(attempt: int, retry_after_seconds: float | None = None) -> timedelta:
    """Return how long to wait before the attempt after the ``attempt``-th (from 0).

    A source's own Retry-After, up to an hour, is a lower bound; what comes on top is spread over
    the backoff or a tenth of what was asked, whichever is more.
    """
    asked = min(retry_after_seconds or 0.0, MAX_RETRY_AFTER_SECONDS)
    ceiling = max(min(CAP_SECONDS, BASE_SECONDS * 2**attempt), RETRY_AFTER_SPREAD * asked)
    return timedelta(seconds=asked + random.uniform(0, ceiling))  # noqa: S311 - spread


def not_ready_delay(waited: timedelta) -> timedelta | None:
    """Return how long to wait before asking again; None where it was waited for too long."""
    if waited >= NOT_READY_FOR:
        return None
    asked_at = timedelta(0)
    for minutes in NOT_READY_MINUTES:
        asked_at += timedelta(minutes=minutes)
        if waited < asked_at:
            return timedelta(minutes=minutes)
    return timedelta(minutes=NOT_READY_MINUTES[-1])
