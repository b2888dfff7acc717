"""Two lectures of a course that prove to be one recording."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.auth.viewer import Viewer
from app.backends import open_backends
from app.db import ledger
from app.db.models import Job, Lecture, LectureAlias, User, UserLecture
from app.domain import JobKind, JobState, LectureFailure, LectureStatus
from app.services.lecture_requests import lock_lecture
from app.services.merging import settle_identity
from app.services.unit_of_work import Work
from app.settings import Settings
from tests.wait import wait_until

Sessions = async_sessionmaker[AsyncSession]
DOWNLOAD = JobKind.DOWNLOAD_LECTURE


@pytest.fixture
async def work(settings: Settings) -> AsyncIterator[Work]:
    async with open_backends(settings) as backends:
        yield backends.work


async def add(
    sessions: Sessions,
    course_id: UUID,
    *,
    session_id: str | None = None,
    status: LectureStatus = LectureStatus.PENDING,
) -> tuple[UUID, UUID]:
    """Add a lecture that one user is linked to; return both ids."""
    lecture_id, user_id = uuid4(), uuid4()
    url = f"https://example.org/{lecture_id}"
    failed = status is LectureStatus.FAILED
    async with sessions.begin() as session:
        session.add(User(id=user_id, issuer="issuer", subject=str(user_id)))
        lecture = Lecture(
            id=lecture_id,
            course_id=course_id,
            panopto_session_id=session_id,
            panopto_url=url,
            canonical_url=url,
            status=status,
            failure=LectureFailure.NETWORK if failed else None,
        )
        session.add(lecture)
        await session.flush()
        session.add(UserLecture(user_id=user_id, lecture_id=lecture_id))
        if status in {LectureStatus.PENDING, LectureStatus.DOWNLOADING}:
            await ledger.open_job(session, DOWNLOAD, lecture_id, user_id)
    return lecture_id, user_id


async def settle(work: Work, lecture_id: UUID, session_id: str) -> UUID | None:
    async with work.begin() as unit:
        survivor = await settle_identity(unit, lecture_id, session_id)
        return survivor.id if survivor else None


async def open_jobs(sessions: Sessions) -> list[UUID]:
    async with sessions() as session:
        query = select(Job.subject_id).where(Job.state.in_((JobState.QUEUED, JobState.RUNNING)))
        return list(await session.scalars(query))


@pytest.mark.parametrize(
    ("known", "late", "known_survives"),
    [
        (LectureStatus.COMPLETED, LectureStatus.DOWNLOADING, True),
        (LectureStatus.FAILED, LectureStatus.DOWNLOADING, False),
        (LectureStatus.PENDING, LectureStatus.DOWNLOADING, False),
        (LectureStatus.DOWNLOADING, LectureStatus.DOWNLOADING, True),
    ],
)
async def test_the_better_one_survives(
    work: Work,
    sessions: Sessions,
    known: LectureStatus,
    late: LectureStatus,
    known_survives: bool,
) -> None:
    course, recording = uuid4(), str(uuid4())
    known_id, ada = await add(sessions, course, session_id=recording, status=known)
    late_id, bob = await add(sessions, course, status=late)
    expected, other = (known_id, late_id) if known_survives else (late_id, known_id)
    assert await settle(work, late_id, recording) == expected
    async with sessions() as session:
        (survivor,) = (await session.scalars(select(Lecture))).all()
        assert (survivor.id, survivor.panopto_session_id) == (expected, recording)
        alias = (await session.scalars(select(LectureAlias))).one()
        assert (alias.id, alias.lecture_id) == (other, expected)
        links = await session.execute(select(UserLecture.user_id, UserLecture.lecture_id))
        assert {tuple(row) for row in links} == {(ada, expected), (bob, expected)}
    assert other not in await open_jobs(sessions)


async def test_merges_at_the_same_moment_leave_one(work: Work, sessions: Sessions) -> None:
    course, recording = uuid4(), str(uuid4())
    made = [await add(sessions, course, status=LectureStatus.DOWNLOADING) for _ in range(6)]
    survivors = await asyncio.gather(*(settle(work, each, recording) for each, _ in made))
    async with sessions() as session:
        (survivor,) = (await session.scalars(select(Lecture))).all()
        aliases = (await session.scalars(select(LectureAlias))).all()
        linked = set(await session.scalars(select(UserLecture.user_id)))
    assert {alias.lecture_id for alias in aliases} == {survivor.id}
    assert {alias.id for alias in aliases} == {each for each, _ in made} - {survivor.id}
    assert linked == {user for _, user in made}
    assert survivor.id in survivors
    assert await open_jobs(sessions) == [survivor.id]


async def test_the_same_recording_in_another_course_is_another_lecture(
    work: Work, sessions: Sessions
) -> None:
    recording = str(uuid4())
    await add(sessions, uuid4(), session_id=recording)
    late_id, _ = await add(sessions, uuid4(), status=LectureStatus.DOWNLOADING)
    assert await settle(work, late_id, recording) == late_id
    async with sessions() as session:
        assert len((await session.scalars(select(Lecture))).all()) == 2


async def test_who_waits_for_a_lecture_that_is_merged_away_gets_the_survivor(
    work: Work, sessions: Sessions
) -> None:
    course, recording = uuid4(), str(uuid4())
    known_id, _ = await add(sessions, course, session_id=recording, status=LectureStatus.COMPLETED)
    late_id, bob = await add(sessions, course, status=LectureStatus.DOWNLOADING)
    viewer = Viewer(bob, "issuer", str(bob), is_admin=False, expires_at=0)

    async def lock() -> UUID:
        async with sessions.begin() as session:
            return (await lock_lecture(session, viewer, late_id)).id

    async with work.begin() as unit:
        await settle_identity(unit, late_id, recording)
        locking = asyncio.create_task(lock())
        await wait_until(lambda: _is_waiting(sessions), "somebody waits for the lock")
    assert await locking == known_id


async def _is_waiting(sessions: Sessions) -> bool:
    from sqlalchemy import text

    query = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    async with sessions() as session:
        return bool(await session.scalar(query))
