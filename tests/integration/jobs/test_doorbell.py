"""Rings through the real Redis, and through one whose connection breaks in the middle of a ring."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.events.wakeups import Wakeups
from app.jobs.doorbell import RING_SECONDS, ArqDoorbell, open_ring_queue
from app.jobs.worker import MAX_RINGS_AT_ONCE, RingWorker
from app.services.kernel.unit_of_work import Work
from tests.support.wait import wait_until


@dataclass
class Ear:
    """Counts the rings that reach the runner's place."""

    rung: int = 0

    def ring(self) -> None:
        self.rung += 1


@dataclass
class CutLine:
    """Passes on what is sent to Redis, but breaks the line at a command, once."""

    upstream: str
    command: bytes
    cuts: int = 1
    path: str = ""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def running(self, directory: Path) -> AsyncIterator[str]:
        """Listen, and yield the URL."""
        self.path = str(directory / "cut.sock")
        server = await asyncio.start_unix_server(self._accept, self.path)
        yield f"unix://{self.path}"
        server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.create_task(self._pass(reader, writer)))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_unix_connection(self.upstream)
        back = asyncio.create_task(_pump(theirs, writer))
        try:
            while chunk := await reader.read(65536):
                if self.cuts and self.command in chunk:
                    self.cuts = 0
                    return
                ours.write(chunk)
        finally:
            back.cancel()
            for end in (ours, writer):
                end.close()
            await asyncio.wait([back])


@contextlib.asynccontextmanager
async def silent_line(directory: Path) -> AsyncIterator[str]:
    """Accept connections and never say a word; yield the URL."""
    ended = asyncio.Event()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    path = directory / "silent.sock"
    server = await asyncio.start_unix_server(accept, path)
    try:
        yield f"unix://{path}"
    finally:
        ended.set()
        server.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        writer.write(chunk)


@dataclass
class Line:
    """A doorbell, and the worker that answers it."""

    doorbell: ArqDoorbell
    worker: RingWorker
    ear: Ear


@contextlib.asynccontextmanager
async def answered_line(redis_url: str, workers_url: str) -> AsyncIterator[Line]:
    """Ring by one URL, answer by another."""
    ear = Ear()
    async with contextlib.AsyncExitStack() as stack:
        wakeups = await stack.enter_async_context(Wakeups(redis_url))
        rung, answered = open_ring_queue(redis_url), open_ring_queue(workers_url)
        for queue in (rung, answered):
            stack.push_async_callback(queue.aclose, close_connection_pool=True)
        worker = RingWorker(answered, wakeups, ear)
        await stack.enter_async_context(worker.answering())
        yield Line(ArqDoorbell(rung, wakeups), worker, ear)


async def test_every_ring_is_heard(redis_url: str) -> None:
    async with answered_line(redis_url, redis_url) as line:
        for _ in range(5):
            await line.doorbell.ring()
        await wait_until(lambda: line.ear.rung >= 5, "all rings are heard")


@pytest.mark.parametrize("command", [b"WATCH", b"PSETEX", b"INCR", b"ZRANGEBYSCORE"])
async def test_a_line_that_breaks_in_a_ring_costs_no_place(
    redis_url: str, tmp_path: Path, command: bytes
) -> None:
    line_to_redis = CutLine(urlsplit(redis_url).path, command)
    async with (
        line_to_redis.running(tmp_path) as url,
        answered_line(redis_url, url) as line,
    ):
        await line.doorbell.ring()
        await wait_until(lambda: line_to_redis.cuts == 0, "the line was cut")
        line.ear.rung = 0
        await line.doorbell.ring()
        await wait_until(lambda: line.ear.rung, "a later ring is heard")
        await wait_until(lambda: line.worker.job_counter == 0, "no ring counts as going on")
        for _ in range(MAX_RINGS_AT_ONCE + 1):
            await asyncio.wait_for(line.worker.sem.acquire(), 1)


async def test_nothing_goes_on_after_the_end(redis_url: str) -> None:
    before = asyncio.all_tasks()
    async with answered_line(redis_url, redis_url) as line:
        await asyncio.gather(*(line.doorbell.ring() for _ in range(40)))
        await wait_until(lambda: line.worker.tasks, "rings are being answered")
    assert asyncio.all_tasks() == before


async def test_a_ring_that_hangs_ends_soon_and_delays_no_wakeup(
    redis_url: str, sessions: async_sessionmaker[AsyncSession], tmp_path: Path
) -> None:
    lecture_id = uuid4()
    async with silent_line(tmp_path) as silent_url, Wakeups(redis_url) as wakeups:
        queue = open_ring_queue(silent_url)
        work = Work(sessions, ArqDoorbell(queue, wakeups), wakeups)
        with wakeups.listen(f"lecture:{lecture_id}") as bell:
            await bell.wait(0)
            began_at = time.monotonic()
            async with work.begin() as unit:
                unit.ring()
                unit.wake("lecture", lecture_id)
            assert ("lecture", lecture_id) in (await bell.wait(5)).subjects
            assert time.monotonic() - began_at < RING_SECONDS
            await work.drain()
            assert time.monotonic() - began_at < RING_SECONDS * 2
        await queue.aclose(close_connection_pool=True)
