"""Live feeds: every change is told, and none of them twice."""

import asyncio
import dataclasses
from collections.abc import Collection
from contextlib import aclosing
from uuid import UUID, uuid4

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.auth.viewer import Viewer
from app.backends import open_backends
from app.db.models import Lecture, User, UserLecture
from app.services.kernel import live
from app.services.kernel.unit_of_work import Work
from app.services.lectures.read import LECTURES, get_lectures
from app.settings import Settings

Sessions = async_sessionmaker[AsyncSession]


async def add_lecture(sessions: Sessions) -> tuple[Viewer, UUID]:
    lecture_id, user_id = uuid4(), uuid4()
    url = f"https://example.org/{lecture_id}"
    async with sessions.begin() as session:
        session.add(User(id=user_id, issuer="issuer", subject=str(user_id)))
        session.add(Lecture(id=lecture_id, course_id=uuid4(), panopto_url=url, canonical_url=url))
        await session.flush()
        session.add(UserLecture(user_id=user_id, lecture_id=lecture_id))
    return Viewer(user_id, "issuer", str(user_id), is_admin=False, expires_at=0), lecture_id


async def rename(work: Work, lecture_id: UUID, title: str) -> None:
    async with work.begin() as unit:
        await unit.session.execute(
            update(Lecture).where(Lecture.id == lecture_id).values(title=title)
        )
        await unit.wake_lecture(lecture_id)


async def test_a_change_between_the_look_and_the_reading_is_told_once(settings: Settings) -> None:
    async with open_backends(settings) as backends:
        viewer, lecture_id = await add_lecture(backends.sessions)
        looked, overtaken = asyncio.Event(), asyncio.Event()

        async def versions(
            session: AsyncSession, viewer: Viewer, ids: Collection[UUID] | None
        ) -> live.Versions:
            found = await LECTURES.versions(session, viewer, ids)
            looked.set()
            return found

        async def read(
            session: AsyncSession, viewer: Viewer, ids: Collection[UUID]
        ) -> dict[UUID, Lecture]:
            if not overtaken.is_set():
                overtaken.set()
                await rename(backends.work, lecture_id, "second")
            return await get_lectures(session, viewer, ids)

        feed = dataclasses.replace(LECTURES, versions=versions, read=read)
        changes = live.follow(backends.lookout, backends.wakeups, viewer, feed)
        async with aclosing(changes):
            told = asyncio.create_task(anext(changes))
            await looked.wait()
            await rename(backends.work, lecture_id, "first")
            assert title_of(await told) == "second"
            # The second change rings as well, and has been told by then.
            looked.clear()
            told = asyncio.create_task(anext(changes))
            await looked.wait()
            await rename(backends.work, lecture_id, "third")
            assert title_of(await told) == "third"


def title_of(change: live.Change[Lecture]) -> str | None:
    assert change.item is not None
    return change.item.title


async def test_looks_that_always_fail_hold_up_no_other(settings: Settings) -> None:
    async with open_backends(settings) as backends:
        lookout = live.Lookout(backends.sessions)

        async def too_slow(session: AsyncSession) -> None:
            raise TimeoutError

        async def well(session: AsyncSession) -> bool:
            return True

        failing = [asyncio.create_task(lookout.look(too_slow)) for _ in range(live.LOOKS_AT_ONCE)]
        await asyncio.sleep(0)  # They begin, and have every turn.
        assert await asyncio.wait_for(lookout.look(well), 30)
        for task in failing:
            task.cancel()
        await asyncio.gather(*failing, return_exceptions=True)
