"""Topics by hand: their names, what is assigned to them, and that all of it is the viewer's own."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.auth.viewer import Viewer
from app.backends import Backends, open_backends
from app.db.models import Topic, TranscriptionTopic
from app.domain import FieldErrorCode, LectureStatus, TopicReview
from app.errors import Conflict, InvalidInput, NotFound
from app.services.lectures import remove as lectures
from app.services.lectures.merging import settle_identity
from app.services.lectures.read import LectureFilter, count_lectures, list_lectures
from app.services.topics import assign, change, read
from app.services.transcripts.read import TranscriptionFilter, list_transcriptions
from app.settings import Settings
from tests.integration.lectures.test_merging import hold
from tests.support.rows import add_lecture, add_transcription, add_user, new_viewer

Sessions = async_sessionmaker[AsyncSession]


@pytest.fixture
async def backends(settings: Settings) -> AsyncIterator[Backends]:
    async with open_backends(settings) as backends:
        yield backends


@pytest.fixture
async def ada(sessions: Sessions) -> Viewer:
    return await add_user(sessions)


async def new_topic(backends: Backends, viewer: Viewer, name: str = "Waves") -> UUID:
    return (await change.create_topic(backends.work, viewer, name, None)).id


async def suggest(sessions: Sessions, transcription: UUID, topic: UUID) -> None:
    """Assign the topic as a model does."""
    async with sessions.begin() as session:
        session.add(
            TranscriptionTopic(
                transcription_id=transcription,
                topic_id=topic,
                ai_confidence=0.9,
                ai_reasoning="At 0:10: waves",
            )
        )


async def topics_of(
    sessions: Sessions, viewer: Viewer, transcription: UUID
) -> dict[UUID, TranscriptionTopic]:
    async with sessions() as session:
        found = await read.assignments_of(session, viewer, [transcription])
    return {row.topic_id: row for row in found[transcription]}


async def lecture_count(sessions: Sessions, viewer: Viewer, topic: UUID) -> int:
    """Return the topic's count, and require that the lists have as many."""
    async with sessions() as session:
        counts = await read.count_lectures_of(session, viewer, [topic])
        wanted = LectureFilter(topic_id=topic)
        page = await list_lectures(session, viewer, wanted, None, None)
        assert len(page.rows) == await count_lectures(session, viewer, wanted)
        assert len(page.rows) == counts.get(topic, 0)
        words = await list_transcriptions(
            session, viewer, TranscriptionFilter(topic_id=topic), None, None
        )
        assert {row.lecture_id for row in words.rows} == {each.row.id for each in page.rows}
    return len(page.rows)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Waves", "wAVES "),
        ("ÉTATS", "états"),
        ("Straße", "STRASSE"),
        ("\u0130stanbul", "i\u0307stanbul"),
        ("\u03a3\u03a3", "\u03c3\u03c2"),
        ("caf\u00e9", "CAFE\u0301"),
    ],
)
async def test_a_name_is_taken_in_any_case_of_letters(
    backends: Backends, sessions: Sessions, ada: Viewer, one: str, other: str
) -> None:
    first = await new_topic(backends, ada, one)
    with pytest.raises(Conflict):
        await new_topic(backends, ada, other)
    second = await new_topic(backends, ada, "Another")
    with pytest.raises(Conflict):
        await change.update_topic(backends.work, ada, second, {"name": other})
    async with sessions() as session:
        names = set(await session.scalars(select(Topic.name)))
    assert names == {one, "Another"}
    # One's own name may be written otherwise, and another user may have it.
    renamed = await change.update_topic(backends.work, ada, first, {"name": other})
    assert renamed.name == other.strip()
    await new_topic(backends, await add_user(sessions), one)


async def test_of_many_of_one_name_at_once_one_is_made(
    backends: Backends, sessions: Sessions
) -> None:
    viewer = new_viewer()
    outcomes = await asyncio.gather(
        *(change.create_topic(backends.work, viewer, name, None) for name in ("a", "A") * 5),
        return_exceptions=True,
    )
    assert sum(isinstance(each, Topic) for each in outcomes) == 1
    assert sum(isinstance(each, Conflict) for each in outcomes) == 9


async def test_there_are_at_most_500(backends: Backends, sessions: Sessions, ada: Viewer) -> None:
    rows = [
        {"user_id": ada.id, "name": str(number), "folded_name": str(number)}
        for number in range(change.MAX_TOPICS - 1)
    ]
    async with sessions.begin() as session:
        await session.execute(insert(Topic), rows)
    outcomes = await asyncio.gather(
        *(change.create_topic(backends.work, ada, f"new {number}", None) for number in range(3)),
        return_exceptions=True,
    )
    refused = [each for each in outcomes if isinstance(each, InvalidInput)]
    assert [each.problems[0].code for each in refused] == [FieldErrorCode.QUOTA] * 2
    async with sessions() as session:
        count = await session.scalar(select(func.count()).select_from(Topic))
    assert count == change.MAX_TOPICS


async def test_topics_are_listed_by_name_whatever_their_letters(
    backends: Backends, sessions: Sessions, ada: Viewer
) -> None:
    names = ["zebra", "Beta", "alpha", "\u0390" * 100, "\U0001d160" * 100]
    for name in names:
        await change.create_topic(backends.work, ada, name, f"About {name[:5]}")
    await new_topic(backends, await add_user(sessions), "stranger's")
    found: list[str] = []
    after = None
    while True:
        async with sessions() as session:
            page = await read.list_topics(session, ada, None, 1, after)
        found += [row.name for row in page.rows]
        if not page.has_next:
            break
        after = page.cursors[-1]
    assert found[:3] == ["alpha", "Beta", "zebra"]
    assert set(found) == set(names)
    async with sessions() as session:
        page = await read.list_topics(session, ada, "about BET", None, None)
        assert [row.name for row in page.rows] == ["Beta"]
        assert await read.count_topics(session, ada, "about BET") == 1


async def test_what_the_viewer_assigns_takes_the_place_of_what_a_model_said(
    backends: Backends, sessions: Sessions, ada: Viewer
) -> None:
    work = backends.work
    words = await add_transcription(sessions, await add_lecture(sessions, ada))
    waves, light, heat = [await new_topic(backends, ada, name) for name in ("W", "L", "H")]
    for topic in (waves, light):
        await suggest(sessions, words, topic)
    await assign.review_topic(work, ada, words, waves, accept=False)
    assert [await lecture_count(sessions, ada, each) for each in (waves, light, heat)] == [0, 1, 0]
    _, accepted = await assign.review_topic(work, ada, words, light, accept=True)
    assert (accepted.review, accepted.topic.name) == (TopicReview.ACCEPTED, "L")

    await assign.assign_topics(work, ada, words, [waves, heat, waves])
    found = await topics_of(sessions, ada, words)
    for topic in (waves, heat):
        row = found[topic]
        assert (row.assigned_by, row.review) == (ada.id, TopicReview.ACCEPTED)
        assert (row.ai_confidence, row.ai_reasoning) == (None, None)
    assert found[light].assigned_by is None
    assert [await lecture_count(sessions, ada, each) for each in (waves, light, heat)] == [1, 1, 1]

    await assign.unassign_topic(work, ada, words, light)
    assert set(await topics_of(sessions, ada, words)) == {waves, heat}
    for attempt in (
        assign.unassign_topic(work, ada, words, light),
        assign.review_topic(work, ada, words, light, accept=True),
    ):
        with pytest.raises(NotFound):
            await attempt
    await change.delete_topic(work, ada, waves)
    assert set(await topics_of(sessions, ada, words)) == {heat}


async def test_a_lecture_counts_once_and_only_while_it_is_the_viewers(
    backends: Backends, sessions: Sessions, ada: Viewer
) -> None:
    bob = await add_user(sessions)
    lecture = await add_lecture(sessions, ada, bob)
    topic = await new_topic(backends, ada)
    for model in ("base", "large"):
        words = await add_transcription(sessions, lecture, model)
        await assign.assign_topics(backends.work, ada, words, [topic])
    assert await lecture_count(sessions, ada, topic) == 1
    store, scratch = backends.storage, backends.scratch
    await lectures.unlink_lectures(backends.work, store, scratch, ada, [lecture])
    assert await lecture_count(sessions, ada, topic) == 0


async def test_nobody_sees_or_changes_what_is_anothers(
    backends: Backends, sessions: Sessions, ada: Viewer
) -> None:
    """On a lecture that both have, and on one that a stranger has not."""
    work, bob = backends.work, await add_user(sessions)
    words = await add_transcription(sessions, await add_lecture(sessions, ada, bob))
    alone = await add_transcription(sessions, await add_lecture(sessions, ada))
    topic, his = await new_topic(backends, ada), await new_topic(backends, bob)
    for each in (words, alone):
        await assign.assign_topics(work, ada, each, [topic])
    for attempt in (
        change.update_topic(work, bob, topic, {"name": "Mine"}),
        change.delete_topic(work, bob, topic),
        assign.assign_topics(work, bob, words, [his, topic]),
        assign.assign_topics(work, bob, alone, [his]),
        assign.unassign_topic(work, bob, words, topic),
        assign.review_topic(work, bob, words, topic, accept=False),
        assign.review_topic(work, bob, alone, topic, accept=False),
    ):
        with pytest.raises(NotFound):
            await attempt
    assert await topics_of(sessions, bob, words) == {}
    assert await lecture_count(sessions, bob, topic) == 0
    async with sessions() as session:
        assert await read.get_topic(session, bob, topic) is None
        assert await read.count_lectures_of(session, bob, [his]) == {}
    assert await lecture_count(sessions, ada, topic) == 2
    assert {row.review for row in (await topics_of(sessions, ada, words)).values()} == {
        TopicReview.ACCEPTED
    }


@pytest.mark.parametrize(
    ("count", "code"), [(0, FieldErrorCode.REQUIRED), (51, FieldErrorCode.TOO_MANY)]
)
async def test_1_to_50_topics_at_once(
    backends: Backends, sessions: Sessions, ada: Viewer, count: int, code: FieldErrorCode
) -> None:
    words = await add_transcription(sessions, await add_lecture(sessions, ada))
    topics = [await new_topic(backends, ada, str(number)) for number in range(count)]
    with pytest.raises(InvalidInput) as refused:
        await assign.assign_topics(backends.work, ada, words, topics)
    assert [(each.path, each.code) for each in refused.value.problems] == [(("topicIds",), code)]
    assert await topics_of(sessions, ada, words) == {}
    if topics:
        await assign.assign_topics(backends.work, ada, words, topics[:50])
        assert set(await topics_of(sessions, ada, words)) == set(topics[:50])


async def test_what_was_said_outlives_a_merge(
    backends: Backends, sessions: Sessions, ada: Viewer
) -> None:
    course, recording = uuid4(), str(uuid4())
    known = await add_lecture(sessions, ada, course_id=course, session_id=recording)
    late = await add_lecture(sessions, ada, course_id=course, status=LectureStatus.DOWNLOADING)
    kept = await add_transcription(sessions, known, "base")
    gone = await add_transcription(sessions, late, "base")
    moved = await add_transcription(sessions, late, "large")
    waves, light, heat = [await new_topic(backends, ada, name) for name in ("W", "L", "H")]
    for each in (kept, gone):
        await suggest(sessions, each, heat)
    await assign.review_topic(backends.work, ada, kept, heat, accept=False)
    await suggest(sessions, kept, waves)
    await suggest(sessions, moved, waves)
    await assign.assign_topics(backends.work, ada, gone, [waves, light])
    lease = await hold(backends.work, late)
    async with backends.work.begin() as unit:
        await settle_identity(unit, lease, recording)
    found = await topics_of(sessions, ada, kept)
    assert {id_: row.assigned_by for id_, row in found.items()} == {
        waves: ada.id,
        light: ada.id,
        heat: None,
    }
    assert found[heat].review is TopicReview.REJECTED
    assert set(await topics_of(sessions, ada, moved)) == {waves}
    assert await topics_of(sessions, ada, gone) == {}
