"""When what did not succeed is tried again."""

from datetime import timedelta

import pytest

from app.services.kernel.retry_policy import (
    BASE_SECONDS,
    CAP_SECONDS,
    MAX_RETRY_AFTER_SECONDS,
    NOT_READY_FOR,
    RETRY_AFTER_SPREAD,
    backoff,
    not_ready_delay,
)

TRIES = 300


@pytest.mark.parametrize("attempt", range(5))
def test_backoff_is_full_jitter(attempt: int) -> None:
    ceiling = min(CAP_SECONDS, BASE_SECONDS * 2**attempt)
    waits = [backoff(attempt).total_seconds() for _ in range(TRIES)]
    assert 0 <= min(waits) < 0.2 * ceiling
    assert 0.8 * ceiling < max(waits) <= ceiling


def test_backoff_is_capped() -> None:
    assert all(backoff(500).total_seconds() <= CAP_SECONDS for _ in range(TRIES))


@pytest.mark.parametrize(
    ("asked", "bound", "spread"),
    [
        (5, 5, BASE_SECONDS),
        (600, 600, 600 * RETRY_AFTER_SPREAD),
        (10**6, MAX_RETRY_AFTER_SECONDS, MAX_RETRY_AFTER_SECONDS * RETRY_AFTER_SPREAD),
    ],
)
def test_who_was_told_to_wait_waits_so_long_and_does_not_come_with_all_others(
    asked: float, bound: float, spread: float
) -> None:
    waits = [backoff(0, asked).total_seconds() for _ in range(TRIES)]
    assert bound <= min(waits) < bound + 0.2 * spread
    assert bound + 0.8 * spread < max(waits) <= bound + spread


@pytest.mark.parametrize("attempt", range(5))
def test_who_was_told_not_to_wait_waits_as_others_do(attempt: int) -> None:
    ceiling = BASE_SECONDS * 2**attempt
    waits = [backoff(attempt, 0).total_seconds() for _ in range(TRIES)]
    assert 0.8 * ceiling < max(waits) <= ceiling
    assert sum(waits) / TRIES > 0.3 * ceiling


def test_what_is_not_ready_is_asked_after_1_2_5_10_and_up_to_60_minutes_for_a_day() -> None:
    waited, delays = timedelta(0), []
    while (delay := not_ready_delay(waited)) is not None:
        delays.append(delay)
        waited += delay
    minutes = [delay.total_seconds() / 60 for delay in delays]
    assert minutes[:7] == [1, 2, 5, 10, 20, 40, 60]
    assert set(minutes[6:]) == {60}
    assert NOT_READY_FOR <= waited < NOT_READY_FOR + timedelta(hours=1)


def test_time_that_slips_does_not_ask_more_often() -> None:
    """A claim comes a little after its time, never before."""
    waited, minutes = timedelta(0), []
    for _ in range(7):
        delay = not_ready_delay(waited)
        assert delay is not None
        minutes.append(delay.total_seconds() / 60)
        waited += delay + timedelta(seconds=3)
    assert minutes == [1, 2, 5, 10, 20, 40, 60]
