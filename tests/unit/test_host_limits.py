"""What is learnt from a host that refuses some of many requests."""

import asyncio
import time
from collections.abc import Callable

import pytest

from app.domain import LectureFailure
from app.errors import IngestFailed
from app.ingest.host_limits import HostLimit, HostLimits
from app.ingest.http_failures import SourceBusy, login_required
from app.ingest.patience import Patience, Retries

QUICK = Patience(first_wait_seconds=0.002, longest_wait_seconds=0.002)


class Host:
    """A host that works on so many requests at once and refuses the others."""

    def __init__(self, most: int, refusal: Callable[[], IngestFailed] = SourceBusy) -> None:
        self.most, self.refusal = most, refusal
        self.working = self.asked = self.refused = self.most_at_once = 0

    async def ask(self) -> int:
        self.asked += 1
        if self.working >= self.most:
            self.refused += 1
            raise self.refusal()
        self.working += 1
        self.most_at_once = max(self.most_at_once, self.working)
        await asyncio.sleep(0.001)
        self.working -= 1
        return self.asked


@pytest.mark.parametrize("most", [1, 2, 4, 6, 10, 31])
@pytest.mark.parametrize("refusal", [SourceBusy, login_required])
async def test_a_host_that_limits_requests_gives_all_of_them(
    most: int, refusal: Callable[[], IngestFailed]
) -> None:
    host, limit = Host(most, refusal), HostLimit()
    downloads = [Retries(QUICK) for _ in range(3)]
    await asyncio.gather(*(retries.of(host.ask, limit) for retries in downloads for _ in range(40)))
    assert limit.in_flight == 0
    assert 1 <= limit.most_of(100) <= most
    # What was learnt serves the next ones.
    host.refused = 0
    await asyncio.gather(*(Retries(QUICK).of(host.ask, limit) for _ in range(40)))
    assert host.refused == 0


async def test_a_host_that_bears_all_is_given_all() -> None:
    host, limit = Host(1000), HostLimit()
    await asyncio.gather(*(Retries(QUICK).of(host.ask, limit) for _ in range(100)))
    assert host.most_at_once == 100


@pytest.mark.parametrize(
    "failure", [SourceBusy(), login_required(), IngestFailed(LectureFailure.TOO_LARGE, "Large.")]
)
async def test_what_is_refused_alone_is_no_matter_of_how_many(failure: IngestFailed) -> None:
    limit = HostLimit()
    async with limit.place() as is_crowding:
        assert not is_crowding(failure)
    assert limit.most_of(32) == 32


async def test_a_burst_of_refusals_halves_once() -> None:
    limit = HostLimit()
    async with limit.place() as first, limit.place() as second, limit.place(), limit.place():
        assert first(SourceBusy())
        assert second(SourceBusy())
        assert not second(IngestFailed(LectureFailure.SOURCE_NOT_FOUND, "Gone."))
    assert limit.most_of(32) == 2


async def test_what_is_urgent_waits_for_no_place() -> None:
    limit = HostLimit()
    async with limit.place() as is_crowding, limit.place():
        is_crowding(SourceBusy())
        async with limit.place(lambda: True):
            assert limit.in_flight == 3
        waiting = asyncio.create_task(limit.place().__aenter__())
        await asyncio.sleep(0)
        assert limit.in_flight == 2
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_a_limit_is_forgotten_after_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    limit, now = HostLimit(), time.monotonic()
    async with limit.place() as is_crowding, limit.place():
        is_crowding(SourceBusy())
    assert limit.most_of(32) == 1
    monkeypatch.setattr(time, "monotonic", lambda: now + 3600)
    assert limit.most_of(32) == 32


async def test_limits_are_of_hosts_and_bounded() -> None:
    limits = HostLimits()
    limit = limits.of("https://A.example/1")
    assert limits.of("https://a.example/2?x") is limit
    assert limits.of("https://a.example:8443/2") is not limit
    async with limit.place():
        for number in range(3000):
            limits.of(f"https://{number}.example/")
        assert limits.of("https://a.example/") is limit
    assert len(limits._limits) <= 1001
