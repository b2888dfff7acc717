"""Whoever asks, whatever they ask for: no hit is of what they are not linked to."""

import asyncio
from itertools import product
from uuid import UUID, uuid4

from hypothesis import given, seed
from hypothesis import settings as limits
from hypothesis import strategies as st
from sqlalchemy import delete, insert

from app.auth.viewer import Viewer
from app.db.models import UserDocument, UserLecture
from app.domain import SearchMode
from app.services.documents.read import OwnDocument
from app.settings import Settings
from tests.support.library import Library, open_library

USERS, SUBJECTS = 3, 4
COURSES = [uuid4(), uuid4()]
LINKS = list(product(range(USERS), range(2 * SUBJECTS)))


async def found(library: Library, viewer: Viewer, mode: SearchMode, where: dict[str, UUID]) -> set:
    seen: set[UUID] = set()
    after = None
    while True:
        page = await library.search(viewer, "sugar energy", mode, first=3, after=after, **where)
        for hit in page.rows:
            is_document = isinstance(hit.subject, OwnDocument)
            seen.add(hit.subject.document.id if is_document else hit.subject.id)
        if not page.has_next:
            return seen
        after = page.cursors[-1]


def test_no_hit_is_outside_of_what_the_viewer_has(settings: Settings) -> None:
    with asyncio.Runner() as runner:
        opened = open_library(settings)
        library = runner.run(opened.__aenter__())
        try:
            check(runner, library)
        finally:
            runner.run(opened.__aexit__(None, None, None))


def check(runner: asyncio.Runner, library: Library) -> None:
    async def make() -> tuple[list[Viewer], list[UUID]]:
        viewers = [await library.viewer(is_admin=number == 0) for number in range(USERS)]
        lectures = [
            await library.lecture(f"Sugar gives energy, says {n}.", course_id=COURSES[n % 2])
            for n in range(SUBJECTS)
        ]
        documents = [
            await library.document([f"Sugar and energy, page {n}"], course_id=COURSES[n % 2])
            for n in range(SUBJECTS)
        ]
        await library.index()
        return viewers, [*lectures, *documents]

    viewers, subjects = runner.run(make())

    async def relink(links: set[tuple[int, int]]) -> None:
        async with library.backends.sessions.begin() as session:
            for table in (UserLecture, UserDocument):
                await session.execute(delete(table))
            for user, number in links:
                user_id, subject = viewers[user].id, subjects[number]
                if number < SUBJECTS:
                    values = {"user_id": user_id, "lecture_id": subject}
                    await session.execute(insert(UserLecture).values(values))
                else:
                    more = {"user_id": user_id, "document_id": subject, "filename": "a.pdf"}
                    await session.execute(insert(UserDocument).values(more))

    filters = st.fixed_dictionaries(
        {},
        optional={
            "course_id": st.sampled_from(COURSES),
            "lecture_id": st.sampled_from(subjects),
            "document_id": st.sampled_from(subjects),
        },
    )

    @seed(13)
    @given(st.sets(st.sampled_from(LINKS)), st.sampled_from(list(SearchMode)), filters)
    @limits(max_examples=60, deadline=None)
    def holds(links: set[tuple[int, int]], mode: SearchMode, where: dict[str, UUID]) -> None:
        runner.run(relink(links))
        for user, viewer in enumerate(viewers):
            own = {number for who, number in links if who == user}
            if "course_id" in where:
                own = {n for n in own if COURSES[n % SUBJECTS % 2] == where["course_id"]}
            if "lecture_id" in where:
                own = {n for n in own if n < SUBJECTS and subjects[n] == where["lecture_id"]}
            if "document_id" in where:
                own = {n for n in own if n >= SUBJECTS and subjects[n] == where["document_id"]}
            hits = runner.run(found(library, viewer, mode, where))
            assert hits == {subjects[number] for number in own}

    holds()
