"""What is learnt from a host that refuses some of many requests."""

import asyncio
import time
from collections.abc import Callable

import pytest

from app.errors import IngestFailed
from app.ingest.failures import SourceBusy, login_required
from app.ingest.net.host_limits import HostLimit, HostLimits
from app.ingest.net.retries import Patience, Retries

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


@pytest.mark.parametrize("refusal", [SourceBusy, login_required])
async def test_what_is_never_answered_well_costs_the_others_nothing(
    refusal: Callable[[], IngestFailed],
) -> None:
    host, bad, limit = Host(1000), Host(0, refusal), HostLimit()

    async def others() -> None:
        for _ in range(50):
            await asyncio.gather(*(Retries(QUICK).of(host.ask, limit) for _ in range(20)))

    asking = asyncio.create_task(others())
    for _ in range(3):
        with pytest.raises(IngestFailed):
            await Retries(QUICK).of(bad.ask, limit)
    assert bad.asked <= 3 * 11
    await asking
    assert limit.most_of(32) == 32


async def test_what_is_refused_alone_is_no_matter_of_how_many() -> None:
    limit, answers = HostLimit(), [SourceBusy(), None]

    async def ask() -> str:
        if failure := answers.pop(0):
            raise failure
        return "well"

    assert await Retries(QUICK).of(ask, limit) == "well"
    assert limit.most_of(32) == 32


@pytest.mark.parametrize(("refused_among", "most"), [([4, 4, 4], 2), ([32, 16, 9], 4), ([2, 1], 1)])
def test_each_refusal_halves_what_was_too_much(refused_among: list[int], most: int) -> None:
    limit = HostLimit()
    for together in refused_among:
        limit.learn(together)
    assert limit.most_of(32) == most


@pytest.mark.parametrize("was_answered", [True, False])
async def test_who_names_a_long_wait_is_asked_less_where_it_had_answered_before(
    was_answered: bool,
) -> None:
    host, limit = Host(3, lambda: SourceBusy(retry_after_seconds=60)), HostLimit()
    retries = Retries(QUICK)
    if was_answered:
        await retries.of(host.ask, limit)
    asking = [retries.of(host.ask, limit) for _ in range(8)]
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert any(isinstance(each, SourceBusy) for each in answers)
    assert (limit.most_of(32) < 8) is was_answered


async def test_what_is_urgent_waits_for_no_place() -> None:
    limit = HostLimit()
    limit.learn(2)
    async with limit.place() as how_many:
        async with limit.place(lambda: True):
            assert limit.in_flight == 2
            assert how_many() == 2
        waiting = asyncio.create_task(limit.place().__aenter__())
        await asyncio.sleep(0)
        assert limit.in_flight == 1
        waiting.cancel()
        await asyncio.wait([waiting])


class Kept(asyncio.WriteTransport):
    """A connection between two requests."""

    is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True


async def test_connections_are_kept_while_the_host_bears_them() -> None:
    limit, kept = HostLimit(), [Kept() for _ in range(8)]
    async with limit.place() as how_many:
        assert all(map(limit.keep, kept))
        assert how_many() == 9
        limit.learn(8)
        assert [each.is_aborted for each in kept] == [True] * 5 + [False] * 3
        assert not limit.take(kept[0])
        assert limit.take(kept[7])
        assert limit.keep(kept[7])
        # What is under way beside them goes before.
        async with limit.place(), limit.place():
            assert not limit.keep(Kept())
            limit.make_room()
    assert [each.is_aborted for each in kept] == [True] * 7 + [False]


@pytest.mark.parametrize(("minutes", "most"), [(0.9, 1), (1.1, 2), (3.5, 8), (3600, 32)])
async def test_a_limit_doubles_with_each_minute_without_refusal(
    monkeypatch: pytest.MonkeyPatch, minutes: float, most: int
) -> None:
    limit, now = HostLimit(), time.monotonic()
    limit.learn(2)
    monkeypatch.setattr(time, "monotonic", lambda: now + 60 * minutes)
    assert limit.most_of(32) == most
    if most > 1:
        limit.learn(most)
        assert limit.most_of(32) == most // 2


async def test_limits_are_of_hosts_and_bounded() -> None:
    limits = HostLimits()
    limit = limits.of("https://A.example/1")
    assert limits.of("https://a.example/2?x") is limit
    assert limits.of("https://a.example:443/2") is limit
    assert limits.of("https://a.example:8443/2") is not limit
    assert limits.of("http://[") is not limits.of("http://[")
    known = limits.of("https://known.example")
    known.learn(8)
    async with limit.place():
        for number in range(3000):
            limits.of(f"https://{number}.example/")
        assert limits.of("https://a.example/") is limit
        assert limits.of("https://known.example/") is known
    assert len(limits._limits) <= 1001
