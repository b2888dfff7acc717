import asyncio
import time

import pytest

from app.domain import LectureFailure
from app.errors import IngestFailed
from app.ingest.failures import SourceBusy
from app.ingest.net.host_limits import HostLimit
from app.ingest.net.retries import Patience, Retries
from tests.support.wait import wait_until

QUICK = Patience(tries_without_progress=2, first_wait_seconds=0.01, longest_wait_seconds=0.01)


class Source:
    """Answers one request after the other with what it was told to, and then well."""

    def __init__(self, *answers: IngestFailed | None) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.asked_at: list[float] = []

    async def ask(self) -> int:
        self.asked += 1
        self.asked_at.append(time.monotonic())
        failure = self.answers.pop(0) if self.answers else None
        await asyncio.sleep(0)  # So that all who ask at once do so before the first is answered.
        if failure:
            raise failure
        return self.asked


def busy(times: int) -> list[IngestFailed]:
    return [SourceBusy() for _ in range(times)]


async def test_who_is_told_not_to_wait_does_not_ask_at_once() -> None:
    patience = Patience(first_wait_seconds=0.04, longest_wait_seconds=0.04)
    for tries in range(1, 4):
        began = time.monotonic()
        await patience.wait(tries, SourceBusy(retry_after_seconds=0))
        assert time.monotonic() - began > 0.019


async def test_a_request_is_tried_twice_again() -> None:
    source = Source(*busy(2))
    assert await Retries(QUICK).of(source.ask, HostLimit()) == 3
    for one, other in zip(source.asked_at, source.asked_at[1:], strict=False):
        assert other - one > 0.004
    source = Source(*busy(3))
    with pytest.raises(SourceBusy):
        await Retries(QUICK).of(source.ask, HostLimit())
    assert source.asked == 3


async def test_a_request_that_always_fails_costs_the_others_nothing() -> None:
    source, bad, retries = Source(), Source(*busy(1000)), Retries(QUICK)

    async def all_of_the_others() -> None:
        for _ in range(50):
            await retries.of(source.ask, HostLimit())
            await asyncio.sleep(0.001)

    others = asyncio.create_task(all_of_the_others())
    with pytest.raises(SourceBusy):
        await retries.of(bad.ask, HostLimit())
    assert bad.asked <= 3
    await others
    assert source.asked == 50


async def test_what_does_not_pass_is_not_tried_again() -> None:
    source = Source(IngestFailed(LectureFailure.SOURCE_NOT_FOUND, "Gone."))
    with pytest.raises(IngestFailed):
        await Retries(QUICK).of(source.ask, HostLimit())
    assert source.asked == 1


async def test_a_long_wait_is_left_to_the_job() -> None:
    source = Source(SourceBusy(retry_after_seconds=60))
    with pytest.raises(SourceBusy):
        await Retries(QUICK).of(source.ask, HostLimit())
    assert source.asked == 1


async def test_requests_side_by_side_have_their_patience_together() -> None:
    """Eight are sent; after that two are tried again in vain, and not eight twice."""
    source, retries = Source(*busy(1000)), Retries(QUICK)
    tasks = [asyncio.create_task(retries.of(source.ask, HostLimit())) for _ in range(8)]
    failures = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(failure) for failure in failures} == {SourceBusy}
    assert source.asked == 8 + 2


async def test_nothing_is_asked_while_one_waits() -> None:
    source, retries = Source(*busy(1)), Retries(QUICK)
    first = asyncio.create_task(retries.of(source.ask, HostLimit()))
    await wait_until(lambda: not source.answers, "it has failed", poll_seconds=0)
    await asyncio.sleep(0)
    others = [asyncio.create_task(retries.of(source.ask, HostLimit())) for _ in range(5)]
    await asyncio.sleep(0)
    assert source.asked == 1
    await asyncio.gather(first, *others)
    assert source.asked == 2 + 5
    assert source.asked_at[1] - source.asked_at[0] > 0.004


async def test_a_burst_of_failures_is_one_trouble() -> None:
    source, retries = Source(*busy(32)), Retries(QUICK)
    began = time.monotonic()
    await asyncio.gather(*[retries.of(source.ask, HostLimit()) for _ in range(32)])
    assert source.asked == 32 + 32
    assert source.asked_at[32] - began > 0.004
