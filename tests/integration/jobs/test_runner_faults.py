"""What a runner makes of a database that hangs, of answers that are lost, of faults of its own."""

import asyncio
import dataclasses
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import ledger
from app.db.engine import make_engine, make_sessions
from app.db.ledger import LEASE_SECONDS
from app.db.models import Job
from app.domain import JobKind, JobState
from app.events.wakeups import Wakeups
from app.jobs.processes import ProcessName
from app.jobs.runner import HEARTBEAT_SECONDS, JobRunner, Slots
from tests.support.lines import Line, line_to
from tests.support.recorder import Recorder
from tests.support.wait import wait_until

Sessions = async_sessionmaker[AsyncSession]
KIND = JobKind.COUNT_PAGES


@pytest.fixture
async def line(database_url: str) -> AsyncIterator[Line]:
    with tempfile.TemporaryDirectory(prefix="sb-") as directory:
        async with line_to(database_url, Path(directory)) as line:
            yield line


@pytest.fixture
async def on_the_line(line: Line) -> AsyncIterator[Sessions]:
    """Sessions as the runner of a worker has them, over the line."""
    engine = make_engine(line.url, pool_size=2, command_timeout_seconds=HEARTBEAT_SECONDS)
    yield make_sessions(engine.execution_options(isolation_level="AUTOCOMMIT"))
    await engine.dispose()


@pytest.fixture
async def wakeups(redis_url: str) -> AsyncIterator[Wakeups]:
    async with Wakeups(redis_url) as wakeups:
        yield wakeups


@asynccontextmanager
async def working(runner: JobRunner) -> AsyncIterator["asyncio.Task[None]"]:
    """Run it while the block runs."""
    task = asyncio.create_task(runner.run())
    try:
        yield task
    finally:
        runner.stop()
        await asyncio.wait([task])


async def queue(sessions: Sessions, count: int = 1) -> list[UUID]:
    subjects = [uuid4() for _ in range(count)]
    async with sessions.begin() as session:
        for subject in subjects:
            await ledger.open_job(session, KIND, subject, None)
    return subjects


async def job_of(sessions: Sessions, subject: UUID) -> Job:
    async with sessions() as session:
        return (await session.scalars(select(Job).where(Job.subject_id == subject))).one()


async def test_a_database_that_hung_kills_nobody(
    sessions: Sessions, on_the_line: Sessions, line: Line, wakeups: Wakeups
) -> None:
    """All leases run out meanwhile; two workers, one of which holds the job."""
    handler = Recorder(sessions)
    runners = [JobRunner(on_the_line, wakeups, [Slots([handler], 1)]) for _ in range(2)]
    (subject,) = await queue(sessions)
    async with AsyncExitStack() as stack:
        for runner in runners:
            await stack.enter_async_context(working(runner))
        await wait_until(lambda: handler.events, "it runs")
        with line.held_up():
            await wait_until(lambda: _has_run_out(sessions, subject), "its lease has run out")
            # Those who know of nothing but leases take it now, if they get through first.
            await asyncio.sleep(0.5)
        await wait_until(lambda: _is_held(sessions, subject), "it is renewed")
        assert handler.events == ["run"]
        assert (await job_of(sessions, subject)).crashes == 0


async def _has_run_out(sessions: Sessions, subject: UUID) -> bool:
    return not await _is_held(sessions, subject)


async def _is_held(sessions: Sessions, subject: UUID) -> bool:
    async with sessions() as session:
        query = text("SELECT lease_until > now() FROM jobs WHERE subject_id = :subject")
        return bool(await session.scalar(query, {"subject": subject}))


async def test_a_lease_that_ran_out_is_taken_over_by_who_saw_it(
    sessions: Sessions, wakeups: Wakeups
) -> None:
    (subject,) = await queue(sessions)
    async with sessions.begin() as session:
        await ledger.claim(session, [KIND], 1, 0, holder="elsewhere")
    handler = Recorder(sessions)
    started = time.monotonic()
    async with working(JobRunner(sessions, wakeups, [Slots([handler], 1)])):
        await wait_until(lambda: handler.events, "it runs")
    assert time.monotonic() - started >= LEASE_SECONDS
    assert (await job_of(sessions, subject)).crashes == 1


async def test_a_claim_whose_answer_was_lost_is_given_back(
    sessions: Sessions, on_the_line: Sessions, line: Line, wakeups: Wakeups
) -> None:
    handler = Recorder(sessions)
    runner = JobRunner(on_the_line, wakeups, [Slots([handler], 1)])
    (subject,) = await queue(sessions)
    async with AsyncExitStack() as stack:
        with line.losing_answers() as lose:
            async with _claims_wait(sessions) as waiting:
                await stack.enter_async_context(working(runner))
                await wait_until(waiting, "its claim has reached the server")
                lose()
            await wait_until(lambda: _is_held(sessions, subject), "it is claimed")
            assert handler.events == []
        claimed = await job_of(sessions, subject)
        assert claimed.holder == runner.holder
        await wait_until(lambda: handler.events, "it runs", timeout_seconds=LEASE_SECONDS - 1)
        again = await job_of(sessions, subject)
        assert (again.crashes, again.attempt) == (0, 0)
        assert again.lease_token != claimed.lease_token


@asynccontextmanager
async def _claims_wait(sessions: Sessions) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
    """Let the server keep every claim waiting while the block runs; yield whether one does."""
    async with sessions.begin() as session:
        for statement in _KEEP_WAITING:
            await session.execute(text(statement))

    async def one_waits() -> bool:
        async with sessions() as session:
            query = (
                "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
            )
            return bool(await session.scalar(text(query)))

    async with sessions.begin() as session:
        await session.execute(text("SELECT pg_advisory_xact_lock(1)"))
        yield one_waits


_KEEP_WAITING = (
    """
    CREATE FUNCTION keep_waiting() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock(1);
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER keep_waiting BEFORE UPDATE ON jobs FOR EACH ROW
    WHEN (OLD.state = 'queued' AND NEW.state = 'running') EXECUTE FUNCTION keep_waiting()
    """,
)


async def test_a_database_that_hangs_does_not_keep_a_runner_from_ending(
    on_the_line: Sessions, sessions: Sessions, line: Line, wakeups: Wakeups
) -> None:
    patient = make_engine(line.url)  # A job's statements wait for half a minute.
    handler = Recorder(make_sessions(patient))
    runner = JobRunner(on_the_line, wakeups, [Slots([handler], 3)])
    subjects = await queue(sessions, 3)
    async with working(runner) as task:
        await wait_until(lambda: len(handler.events) == 3, "they run")
        with line.held_up():
            stopped = time.monotonic()
            runner.stop()
            await task
            assert time.monotonic() - stopped < 6
    assert handler.events.count("handed back") == 3, "it was tried"
    for subject in subjects:
        assert (await job_of(sessions, subject)).crashes == 0
    await patient.dispose()


async def test_a_job_that_was_claimed_while_the_runner_stopped_is_handed_back(
    sessions: Sessions, wakeups: Wakeups
) -> None:
    handler = Recorder(sessions)
    runner = JobRunner(sessions, wakeups, [Slots([handler], 1)])
    (subject,) = await queue(sessions)
    async with AsyncExitStack() as stack:
        async with _claims_wait(sessions) as waiting:
            task = await stack.enter_async_context(working(runner))
            await wait_until(waiting, "its claim is under way")
            runner.stop()
        await task
    assert handler.events == ["run", "cancelled", "handed back"]
    job = await job_of(sessions, subject)
    assert (job.state, job.crashes, job.attempt) == (JobState.QUEUED, 0, 0)


async def test_a_job_that_is_given_up_before_its_first_step_is_handed_back(
    sessions: Sessions, wakeups: Wakeups
) -> None:
    handler = Recorder(sessions)
    runner = JobRunner(sessions, wakeups, [Slots([handler], 1)])
    (subject,) = await queue(sessions)
    async with sessions.begin() as session:
        (lease,) = await ledger.claim(session, [KIND], 1)
    runner._start(lease, handler)
    runner._give_up()
    await asyncio.wait(runner._tasks())
    assert handler.events == ["handed back"]
    assert (await job_of(sessions, subject)).state is JobState.QUEUED


@dataclasses.dataclass(frozen=True)
class _Broken(ProcessName):
    def knows_gone(self, other: ProcessName) -> bool:
        raise ZeroDivisionError("a fault of ours")


async def test_a_fault_of_the_watch_ends_the_runner(sessions: Sessions, wakeups: Wakeups) -> None:
    handler = Recorder(sessions)
    name = ProcessName.of_this_process()
    assert name is not None
    runner = JobRunner(sessions, wakeups, [Slots([handler], 1)], _Broken(*_fields(name)))
    (subject,) = await queue(sessions)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(runner.run(), 10)
    job = await job_of(sessions, subject)
    assert (job.state, job.crashes) == (JobState.QUEUED, 0)
    assert handler.events in ([], ["run", "cancelled", "handed back"])


def _fields(name: ProcessName) -> tuple[str, str, int, str]:
    return name.boot_id, name.namespace, name.pid, name.start_time


async def test_what_was_left_behind_does_not_wait_for_a_slot(
    sessions: Sessions, wakeups: Wakeups
) -> None:
    handler = Recorder(sessions)
    left = await queue(sessions, 3)
    async with sessions.begin() as session:
        await ledger.claim(session, [KIND], 3, 3600, holder="dead")
    mine = await queue(sessions, 3)
    runner = JobRunner(sessions, wakeups, [Slots([handler], 2)])
    async with working(runner):
        await wait_until(lambda: len(handler.events) == 2, "its slots are full")
        async with sessions.begin() as session:
            await ledger.end_leases(session, ["dead"])
        runner.ring()
        await wait_until(lambda: len(handler.events) == 4, "two more run")
        runner.ring()
        holders = [(await job_of(sessions, each)).holder for each in left]
        assert sorted(holders) == sorted(["dead", runner.holder, runner.holder])
        states = sorted([(await job_of(sessions, each)).state for each in mine])
        assert states == [JobState.QUEUED, JobState.RUNNING, JobState.RUNNING]
