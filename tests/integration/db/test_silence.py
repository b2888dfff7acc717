"""Transactions whose process was stopped between two messages of one statement."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import ledger
from app.db.engine import IDLE_SECONDS, make_engine, make_locking_sessions
from app.db.models import Lecture
from app.db.silence import end_silent_clients
from app.domain import JobKind, JobState
from app.jobs.runner import JobRunner
from app.settings import Settings
from app.worker import open_worker
from tests.support.wait import wait_until

Sessions = async_sessionmaker[AsyncSession]
AT_ONCE = timedelta(0)


@pytest.fixture
async def lecture_id(sessions: Sessions) -> UUID:
    """A lecture that nobody has asked to be downloaded."""
    async with sessions.begin() as session:
        url = "http://127.0.0.1:1/lecture.mp4"
        lecture = Lecture(course_id=uuid4(), panopto_url=url, canonical_url=url)
        session.add(lecture)
        await session.flush()
        return lecture.id


@asynccontextmanager
async def locked(database_url: str, lecture_id: UUID) -> AsyncIterator[asyncpg.Connection]:
    """Lock the lecture's row, in a transaction of another client with our limit."""
    engine = make_engine(database_url)
    async with make_locking_sessions(engine)() as session:
        await lock(session, lecture_id)
        connection = await session.connection()
        yield (await connection.get_raw_connection()).driver_connection
        await session.invalidate()
    await engine.dispose()


async def lock(session: AsyncSession, lecture_id: UUID) -> None:
    await session.execute(select(Lecture.id).where(Lecture.id == lecture_id).with_for_update())


@asynccontextmanager
async def waiting(sessions: Sessions, lecture_id: UUID) -> AsyncIterator["asyncio.Task[None]"]:
    """Wait for the lecture's lock, in a task."""

    async def wait() -> None:
        async with sessions.begin() as session:
            await lock(session, lecture_id)

    task = asyncio.create_task(wait())
    await wait_until(lambda: there_is(sessions, "wait_event_type = 'Lock'"), "it waits")
    yield task
    task.cancel()
    await asyncio.wait([task])


async def there_is(sessions: Sessions, activity: str) -> bool:
    query = f"SELECT FROM pg_stat_activity WHERE datname = current_database() AND {activity}"
    async with sessions() as session:
        return bool(await session.scalar(text(f"SELECT EXISTS ({query})")))


async def ended(
    sessions: Sessions, silence: timedelta, trusted_for: timedelta = timedelta(minutes=1)
) -> int:
    async with sessions.begin() as session:
        now = await session.scalar(select(func.now()))
        return await end_silent_clients(session, now + trusted_for, silence)


async def test_who_says_nothing_amid_a_statement_is_ended(
    sessions: Sessions, database_url: str, lecture_id: UUID
) -> None:
    async with (
        locked(database_url, lecture_id) as connection,
        waiting(sessions, lecture_id) as waiter,
    ):
        await connection.prepare("SELECT now()")  # It is never run.
        assert await ended(sessions, timedelta(minutes=1)) == 0, "it may go on yet"
        frozen = timedelta(seconds=-1)
        assert await ended(sessions, AT_ONCE, trusted_for=frozen) == 0, "maybe all were silent"
        assert not waiter.done()
        assert await ended(sessions, AT_ONCE) == 1
        await waiter


async def test_who_holds_nobody_up_is_left_alone(
    sessions: Sessions, database_url: str, lecture_id: UUID
) -> None:
    async with locked(database_url, lecture_id) as connection:
        await connection.prepare("SELECT now()")
        assert await ended(sessions, AT_ONCE) == 0
        assert await connection.fetchval("SELECT 1") == 1


async def test_who_is_at_work_is_left_alone(
    sessions: Sessions, database_url: str, lecture_id: UUID
) -> None:
    async with (
        locked(database_url, lecture_id) as connection,
        waiting(sessions, lecture_id) as waiter,
    ):
        assert await ended(sessions, AT_ONCE) == 0, "between two statements the limit counts"
        work = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
        await wait_until(lambda: there_is(sessions, "wait_event = 'PgSleep'"), "it is at work")
        assert await ended(sessions, AT_ONCE) == 0
        assert not waiter.done()
        work.cancel()
        await asyncio.wait([work])


async def test_its_job_goes_on_elsewhere(
    settings: Settings, sessions: Sessions, database_url: str, lecture_id: UUID
) -> None:
    async with locked(database_url, lecture_id) as connection, open_worker(settings) as runner:
        await connection.prepare("SELECT now()")
        async with sessions.begin() as session:
            await ledger.open_job(session, JobKind.DOWNLOAD_LECTURE, lecture_id, uuid4())
        async with running(runner):

            async def is_closed() -> bool:
                query = text("SELECT state FROM jobs WHERE subject_id = :id")
                async with sessions() as session:
                    return await session.scalar(query, {"id": lecture_id}) == JobState.FAILED

            patience = IDLE_SECONDS + 10
            await wait_until(is_closed, "its address is not allowed", timeout_seconds=patience)


@asynccontextmanager
async def running(runner: JobRunner) -> AsyncIterator[None]:
    task = asyncio.create_task(runner.run())
    yield
    runner.stop()
    await task
