"""Collections: whose they are, what is in them, and that positions stay 0 to n - 1."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.auth.viewer import Viewer
from app.backends import Backends, open_backends
from app.db.models import Collection, CollectionItem, Lecture
from app.domain import FieldErrorCode, LectureStatus
from app.errors import InvalidInput, NotFound
from app.services.collections import change
from app.services.documents import remove as documents
from app.services.kernel.quotas import Allowance
from app.services.lectures import remove as lectures
from app.services.lectures.merging import settle_identity
from app.services.lectures.request import DownloadRequest, request_download
from app.settings import Settings
from tests.integration.lectures.test_merging import hold
from tests.support.rows import add_document, add_lecture, add_user, new_viewer

Sessions = async_sessionmaker[AsyncSession]


@pytest.fixture
async def backends(settings: Settings) -> AsyncIterator[Backends]:
    async with open_backends(settings) as backends:
        yield backends


@pytest.fixture
async def ada(sessions: Sessions) -> Viewer:
    return await add_user(sessions)


async def items(sessions: Sessions, collection: UUID) -> list[UUID]:
    """Return the subjects in their order, and require that positions are dense."""
    async with sessions() as session:
        query = select(CollectionItem).where(CollectionItem.collection_id == collection)
        rows = (await session.scalars(query.order_by(CollectionItem.position))).all()
    assert [row.position for row in rows] == list(range(len(rows)))
    return [row.lecture_id or row.document_id or uuid4() for row in rows]


async def fill(
    backends: Backends, sessions: Sessions, viewer: Viewer, count: int
) -> tuple[UUID, list[UUID]]:
    """Make a collection of lectures and documents by turns."""
    made = await change.create_collection(backends.work, viewer, "Exam", None)
    subjects = []
    for number in range(count):
        add = add_document if number % 2 else add_lecture
        subjects.append(await add(sessions, viewer))
        await change.add_to_collection(backends.work, viewer, made.id, subjects[-1], None)
    return made.id, subjects


async def test_what_is_added_again_moves(
    backends: Backends, sessions: Sessions, ada: Viewer
) -> None:
    collection, (a, b, c, d) = await fill(backends, sessions, ada, 4)

    async def move(subject: UUID, position: int | None) -> list[UUID]:
        await change.add_to_collection(backends.work, ada, collection, subject, position)
        return await items(sessions, collection)

    assert await items(sessions, collection) == [a, b, c, d]
    assert await move(d, 0) == [d, a, b, c]
    assert await move(d, 2) == [a, b, d, c]
    assert await move(d, 2) == [a, b, d, c]
    assert await move(a, None) == [b, d, c, a]
    assert await move(b, 99) == [d, c, a, b]
    e = await add_document(sessions, ada)
    assert await move(e, 1) == [d, e, c, a, b]
    await change.remove_from_collection(backends.work, ada, collection, e)
    assert await items(sessions, collection) == [d, c, a, b]
    with pytest.raises(NotFound):
        await change.remove_from_collection(backends.work, ada, collection, e)


async def test_twenty_moves_at_once_leave_no_gap(
    backends: Backends, sessions: Sessions, ada: Viewer
) -> None:
    collection, subjects = await fill(backends, sessions, ada, 8)
    await asyncio.gather(
        *(
            change.add_to_collection(
                backends.work, ada, collection, subjects[number % 8], (number * 5) % 8
            )
            for number in range(20)
        )
    )
    assert set(await items(sessions, collection)) == set(subjects)


async def test_whatever_is_done_at_once_leaves_no_gap(
    backends: Backends, sessions: Sessions, ada: Viewer
) -> None:
    """Adding, moving, removing and unlinking, in two collections: nobody waits in a ring."""
    one, subjects = await fill(backends, sessions, ada, 12)
    other = (await change.create_collection(backends.work, ada, "Other", None)).id
    for subject in reversed(subjects):
        await change.add_to_collection(backends.work, ada, other, subject, 0)
    work, store, scratch = backends.work, backends.storage, backends.scratch
    outcomes = await asyncio.gather(
        lectures.unlink_lectures(work, store, scratch, ada, [subjects[0], subjects[2]]),
        lectures.unlink_lectures(work, store, scratch, ada, [subjects[6], subjects[4]]),
        documents.unlink_documents(work, store, ada, [subjects[1], subjects[3]]),
        *(change.add_to_collection(work, ada, one, each, 0) for each in subjects),
        *(change.add_to_collection(work, ada, other, each, 3) for each in subjects),
        change.remove_from_collection(work, ada, one, subjects[11]),
        return_exceptions=True,
    )
    unexpected = [each for each in outcomes if isinstance(each, BaseException)]
    assert [each for each in unexpected if not isinstance(each, NotFound)] == []
    left = {subjects[5], *subjects[7:]}
    assert set(await items(sessions, one)) | {subjects[11]} == left
    assert set(await items(sessions, other)) == left


async def test_what_is_unlinked_leaves_the_viewers_collections_alone(
    backends: Backends, sessions: Sessions, ada: Viewer
) -> None:
    bob = await add_user(sessions)
    shared, pdf = await add_lecture(sessions, ada, bob), await add_document(sessions, ada, bob)
    mine, subjects = await fill(backends, sessions, ada, 3)
    his, others = await fill(backends, sessions, bob, 2)
    work, store, scratch = backends.work, backends.storage, backends.scratch
    for viewer, collection in ((ada, mine), (bob, his)):
        await change.add_to_collection(work, viewer, collection, shared, 0)
        await change.add_to_collection(work, viewer, collection, pdf, 2)
    await lectures.unlink_lectures(work, store, scratch, ada, [shared])
    assert await items(sessions, mine) == [subjects[0], pdf, *subjects[1:]]
    await documents.unlink_documents(work, store, ada, [pdf])
    assert await items(sessions, mine) == subjects
    assert await items(sessions, his) == [shared, others[0], pdf, others[1]]
    root = await add_user(sessions, is_admin=True)
    await lectures.delete_lecture(work, store, scratch, root, shared)
    await documents.delete_document(work, store, root, pdf)
    assert await items(sessions, his) == others


async def test_what_is_merged_away_keeps_its_place(
    backends: Backends, sessions: Sessions, ada: Viewer
) -> None:
    course, recording, work = uuid4(), str(uuid4()), backends.work
    known = await add_lecture(sessions, ada, course_id=course, session_id=recording)
    late = await add_lecture(sessions, ada, course_id=course, status=LectureStatus.DOWNLOADING)
    alone, (a, b) = await fill(backends, sessions, ada, 2)
    both, (c, d) = await fill(backends, sessions, ada, 2)
    await change.add_to_collection(work, ada, alone, late, 1)
    await change.add_to_collection(work, ada, both, late, 0)
    await change.add_to_collection(work, ada, both, known, 2)
    lease = await hold(work, late)
    async with work.begin() as unit:
        survivor = await settle_identity(unit, lease, recording)
    assert survivor is not None
    assert survivor.id == known
    assert await items(sessions, alone) == [a, known, b]
    assert await items(sessions, both) == [c, known, d]
    await change.add_to_collection(work, ada, alone, late, 0)  # by its old id
    assert await items(sessions, alone) == [known, a, b]
    await change.remove_from_collection(work, ada, alone, late)
    assert await items(sessions, alone) == [a, b]


async def test_what_has_failed_leaves_where_the_viewer_has_it_in_another_way(
    backends: Backends, sessions: Sessions, ada: Viewer
) -> None:
    """A stream that is brought beside a FAILED lecture of others unlinks the viewer from that."""
    bob, recording = await add_user(sessions), str(uuid4())
    failed = await add_lecture(
        sessions, ada, bob, session_id=recording, status=LectureStatus.FAILED
    )
    mine, (a, b) = await fill(backends, sessions, ada, 2)
    await change.add_to_collection(backends.work, ada, mine, failed, 1)
    his = (await change.create_collection(backends.work, bob, "His", None)).id
    await change.add_to_collection(backends.work, bob, his, failed, 0)
    async with sessions() as session:
        course = (await session.get_one(Lecture, failed)).course_id
    url = f"https://uni.hosted.panopto.com/Panopto/Pages/Viewer.aspx?id={recording}"
    request = DownloadRequest(course, url, "https://cdn.example.org/stream.mp4")
    allowance = Allowance(backends.requests, ada.id, None)
    asked = await request_download(backends.work, ada, request, (), allowance)
    assert asked.lecture.id != failed
    assert await items(sessions, mine) == [a, b]
    assert await items(sessions, his) == [failed]
    with pytest.raises(NotFound):
        await change.add_to_collection(backends.work, ada, mine, failed, 0)


async def test_nobody_changes_what_is_anothers(
    backends: Backends, sessions: Sessions, ada: Viewer
) -> None:
    collection, subjects = await fill(backends, sessions, ada, 2)
    work = backends.work
    for stranger in (await add_user(sessions), new_viewer(is_admin=True)):
        own = (await change.create_collection(work, stranger, "Own", None)).id
        for attempt in (
            change.update_collection(work, stranger, collection, {"name": "Mine"}),
            change.delete_collection(work, stranger, collection),
            change.add_to_collection(work, stranger, collection, subjects[0], 1),
            change.remove_from_collection(work, stranger, collection, subjects[0]),
            # Not even an admin keeps what they are not linked to.
            change.add_to_collection(work, stranger, own, subjects[0], None),
            change.add_to_collection(work, stranger, own, subjects[1], None),
        ):
            with pytest.raises(NotFound):
                await attempt
        assert await items(sessions, own) == []
    assert await items(sessions, collection) == subjects
    async with sessions() as session:
        assert (await session.get_one(Collection, collection)).name == "Exam"


async def test_there_are_limits_and_moves_go_on_at_them(
    backends: Backends, sessions: Sessions, ada: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection, subjects = await fill(backends, sessions, ada, 3)
    more = await add_lecture(sessions, ada)
    monkeypatch.setattr(change, "MAX_ITEMS", 3)
    with pytest.raises(InvalidInput) as full:
        await change.add_to_collection(backends.work, ada, collection, more, 0)
    assert full.value.problems[0].path == ("input", "subjectId")
    assert await items(sessions, collection) == subjects
    await change.add_to_collection(backends.work, ada, collection, subjects[2], 0)
    assert await items(sessions, collection) == [subjects[2], *subjects[:2]]
    with pytest.raises(InvalidInput):
        await change.add_to_collection(backends.work, ada, collection, subjects[0], -1)

    rows = [{"user_id": ada.id, "name": "x"}] * (change.MAX_COLLECTIONS - 2)
    async with sessions.begin() as session:
        await session.execute(insert(Collection), rows)
    outcomes = await asyncio.gather(
        *(change.create_collection(backends.work, ada, "One", None) for _ in range(4)),
        return_exceptions=True,
    )
    refused = [each for each in outcomes if isinstance(each, InvalidInput)]
    assert {each.problems[0].code for each in refused} == {FieldErrorCode.QUOTA}
    assert len(refused) == 3
    async with sessions() as session:
        count = await session.scalar(select(func.count()).select_from(Collection))
    assert count == change.MAX_COLLECTIONS


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("", FieldErrorCode.REQUIRED),
        (" \t\u200b\n", FieldErrorCode.REQUIRED),
        ("x" * 101, FieldErrorCode.TOO_LONG),
        ("a\x00b", FieldErrorCode.MALFORMED),
        ("\ud800", FieldErrorCode.MALFORMED),
    ],
)
async def test_a_name_is_1_to_100_characters_of_text(
    backends: Backends, sessions: Sessions, name: str, code: FieldErrorCode
) -> None:
    viewer = new_viewer()
    with pytest.raises(InvalidInput) as refused:
        await change.create_collection(backends.work, viewer, name, None)
    assert [problem.code for problem in refused.value.problems] == [code]
    async with sessions() as session:
        assert (await session.scalars(select(Collection))).all() == []


async def test_names_are_trimmed_and_what_is_not_given_stays(
    backends: Backends, ada: Viewer
) -> None:
    made = await change.create_collection(backends.work, ada, f"  {'é' * 100}\n", " For May ")
    assert (made.name, made.description) == ("é" * 100, "For May")
    named = await change.update_collection(backends.work, ada, made.id, {"name": "B"})
    assert (named.name, named.description) == ("B", "For May")
    bare = await change.update_collection(
        backends.work, ada, made.id, {"name": None, "description": None}
    )
    assert (bare.name, bare.description) == ("B", None)
    assert bare.updated_at > made.created_at
