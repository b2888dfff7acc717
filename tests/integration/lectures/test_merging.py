"""Two lectures of a course that prove to be one recording."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.auth.viewer import Viewer
from app.backends import open_backends
from app.db import ledger
from app.db.ledger import Lease
from app.db.models import NOBODY, Job, Lecture, LectureAlias, User, UserLecture
from app.domain import JobKind, JobState, LectureFailure, LectureStatus
from app.errors import LeaseLost
from app.services.kernel.quotas import Allowance
from app.services.kernel.unit_of_work import Work
from app.services.lectures.merging import settle_identity
from app.services.lectures.read import get_lecture
from app.services.lectures.request import DownloadRequest, lock_lecture, request_download
from app.settings import Settings
from tests.support.wait import wait_until

Sessions = async_sessionmaker[AsyncSession]
DOWNLOAD = JobKind.DOWNLOAD_LECTURE
NONE = JobKind.COUNT_PAGES  # a kind that lectures have no job of


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
    age: timedelta = timedelta(0),
    url: str | None = None,
    title: str | None = None,
) -> tuple[UUID, UUID]:
    """Add a lecture that one user is linked to; return both ids."""
    lecture_id, user_id = uuid4(), uuid4()
    url = url or f"https://example.org/{lecture_id}"
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
            title=title,
            created_at=datetime.now(UTC) - age,
            failure=LectureFailure.NETWORK if failed else None,
        )
        session.add(lecture)
        await session.flush()
        session.add(UserLecture(user_id=user_id, lecture_id=lecture_id))
        if status in {LectureStatus.PENDING, LectureStatus.DOWNLOADING}:
            await ledger.open_job(session, DOWNLOAD, lecture_id, user_id)
    return lecture_id, user_id


async def hold(work: Work, lecture_id: UUID) -> Lease:
    """Return a lease on the lecture's download, on a job made for it where none is open."""
    token = uuid4()
    lease = {"lease_token": token, "lease_until": func.now() + timedelta(hours=1)}
    running = {"state": JobState.RUNNING, **lease}
    async with work.begin() as unit:
        is_open = Job.state.in_((JobState.QUEUED, JobState.RUNNING))
        claimed = update(Job).where(Job.subject_id == lecture_id, is_open).values(running)
        job_id = await unit.session.scalar(claimed.returning(Job.id))
        if job_id is None:
            made = insert(Job).values(kind=NONE, subject_id=lecture_id, user_id=NOBODY, **running)
            job_id = (await unit.session.execute(made.returning(Job.id))).scalar_one()
    return Lease(job_id, DOWNLOAD, lecture_id, token, 0, 0)


async def settle(work: Work, lecture_id: UUID, session_id: str) -> UUID | None:
    lease = await hold(work, lecture_id)
    async with work.begin() as unit:
        survivor = await settle_identity(unit, lease, session_id)
        await unit.session.execute(delete(Job).where(Job.kind == NONE))
        return survivor.id if survivor else None


async def open_jobs(sessions: Sessions) -> list[UUID]:
    async with sessions() as session:
        query = select(Job.subject_id).where(Job.state.in_((JobState.QUEUED, JobState.RUNNING)))
        return list(await session.scalars(query))


BEST_FIRST = [
    LectureStatus.COMPLETED,
    LectureStatus.DOWNLOADING,
    LectureStatus.PENDING,
    LectureStatus.FAILED,
]


@pytest.mark.parametrize("known_is_older", [True, False])
@pytest.mark.parametrize("late", BEST_FIRST)
@pytest.mark.parametrize("known", BEST_FIRST)
async def test_the_better_one_survives_else_the_older(
    work: Work,
    sessions: Sessions,
    known: LectureStatus,
    late: LectureStatus,
    known_is_older: bool,
) -> None:
    course, recording = uuid4(), str(uuid4())
    ages = [timedelta(hours=1), timedelta(0)]
    known_age, late_age = ages if known_is_older else ages[::-1]
    known_id, ada = await add(sessions, course, session_id=recording, status=known, age=known_age)
    late_id, bob = await add(sessions, course, status=late, age=late_age)
    ranks = BEST_FIRST.index(known), BEST_FIRST.index(late)
    known_survives = known_is_older if known is late else ranks[0] < ranks[1]
    expected, other = (known_id, late_id) if known_survives else (late_id, known_id)
    assert await settle(work, late_id, recording) == expected
    async with sessions() as session:
        (survivor,) = (await session.scalars(select(Lecture))).all()
        assert (survivor.id, survivor.panopto_session_id) == (expected, recording)
        alias = (await session.scalars(select(LectureAlias))).one()
        assert (alias.id, alias.lecture_id) == (other, expected)
        links = await session.execute(select(UserLecture.user_id, UserLecture.lecture_id))
        assert {tuple(row) for row in links} == {(ada, expected), (bob, expected)}
    runs = (known if known_survives else late) in BEST_FIRST[1:3]
    assert await open_jobs(sessions) == ([expected] if runs else [])


async def test_who_is_linked_to_both_is_linked_once_and_the_title_stays(
    work: Work, sessions: Sessions
) -> None:
    course, recording = uuid4(), str(uuid4())
    _, ada = await add(sessions, course, session_id=recording, title="Mine")
    late_id, _ = await add(sessions, course, status=LectureStatus.DOWNLOADING)
    async with sessions.begin() as session:
        session.add(UserLecture(user_id=ada, lecture_id=late_id))
    assert await settle(work, late_id, recording) == late_id
    async with sessions() as session:
        links = (await session.execute(select(UserLecture.user_id))).scalars().all()
        assert len(links) == 2
        assert (await session.get_one(Lecture, late_id)).title == "Mine"


async def test_an_alias_of_an_alias_answers_with_the_last_survivor(
    work: Work, sessions: Sessions
) -> None:
    course, recording = uuid4(), str(uuid4())
    first, ada = await add(sessions, course, session_id=recording, status=LectureStatus.FAILED)
    second, _ = await add(sessions, course)
    third, _ = await add(sessions, course, status=LectureStatus.DOWNLOADING)
    assert await settle(work, second, recording) == second
    assert await settle(work, third, recording) == third
    viewer = Viewer(ada, "issuer", str(ada), is_admin=False, expires_at=0)
    for each in (first, second, third):
        async with sessions() as session:
            lecture = await get_lecture(session, viewer, each)
        assert lecture is not None
        assert lecture.id == third


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_request_at_the_moment_of_the_merge_gets_the_survivor(
    settings: Settings, sessions: Sessions, is_known: bool
) -> None:
    """A spelling that becomes an alias's makes no second lecture beside the survivor."""
    course, recording = uuid4(), str(uuid4())
    url = f"https://uni.hosted.panopto.com/Panopto/Pages/Viewer.aspx?tid={uuid4()}"
    late_id, _ = await add(sessions, course, status=LectureStatus.DOWNLOADING, url=url)
    completed = LectureStatus.COMPLETED
    if is_known:
        known_id, _ = await add(sessions, course, session_id=recording, status=completed)
    cleo = Viewer(uuid4(), "issuer", "cleo", is_admin=False, expires_at=0)
    async with open_backends(settings) as backends:
        allowance = Allowance(backends.requests, cleo.id, None)
        request = DownloadRequest(course, url)
        lease = await hold(backends.work, late_id)
        async with backends.work.begin() as unit:
            await settle_identity(unit, lease, recording)
            asking = asyncio.create_task(
                request_download(backends.work, cleo, request, (), allowance)
            )
            await wait_until(lambda: _is_waiting(sessions), "the request waits")
        asked = await asking
    expected = known_id if is_known else late_id
    assert (asked.lecture.id, asked.created) == (expected, False)
    async with sessions() as session:
        assert list(await session.scalars(select(Lecture.id))) == [expected]
        linked = select(UserLecture.lecture_id).where(UserLecture.user_id == cleo.id)
        assert list(await session.scalars(linked)) == [expected]


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


async def test_who_has_lost_the_lease_merges_nothing(work: Work, sessions: Sessions) -> None:
    course, recording = uuid4(), str(uuid4())
    known_id, _ = await add(sessions, course, session_id=recording, status=LectureStatus.COMPLETED)
    late_id, _ = await add(sessions, course, status=LectureStatus.DOWNLOADING)
    lease = await hold(work, late_id)
    async with sessions.begin() as session:
        await ledger.close_job(session, DOWNLOAD, late_id)
    with pytest.raises(LeaseLost):
        async with work.begin() as unit:
            await settle_identity(unit, lease, recording)
    async with sessions() as session:
        assert set(await session.scalars(select(Lecture.id))) == {known_id, late_id}


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

    lease = await hold(work, late_id)
    async with work.begin() as unit:
        await settle_identity(unit, lease, recording)
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
