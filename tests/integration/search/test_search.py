"""Search: what is found, where it begins, in which order, and by nobody else."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from sqlalchemy import delete, select, text, update

from app.auth.viewer import Viewer
from app.db.models import Document, Transcription, TranscriptionChunk, UserLecture
from app.domain import SearchMode
from app.embedded.postgres import EmbeddedPostgres
from app.errors import BadUserInput
from app.services.collections.change import add_to_collection, create_collection
from app.services.documents.read import OwnDocument
from app.services.search import read
from app.services.search.query import parse_query
from app.services.search.read import Hit
from app.services.topics.assign import assign_topics, review_topic
from app.services.topics.change import create_topic
from app.settings import Settings
from tests.support.library import SECONDS_A_WORD, Library, open_library, spoken

FILLER = "Let us take a moment here before we go on with the next part of the lecture today. " * 3
BIOLOGY = (
    FILLER
    + "Plants make their own sugar out of water and air while the sun is shining on their leaves. "
    + FILLER
    + "| The mitochondria release energy from that sugar by night as well as by day. "
    + FILLER
)
LAW = FILLER + "The court dismissed the appeal because the deadline for it had passed. " + FILLER
EVERY = list(SearchMode)


@pytest.fixture
async def library(settings: Settings) -> AsyncIterator[Library]:
    async with open_library(settings) as library:
        yield library


def subject_of(hit: Hit) -> UUID:
    return hit.subject.document.id if isinstance(hit.subject, OwnDocument) else hit.subject.id


def seconds_of(transcript_text: str, phrase: str) -> float:
    """When the sentence with the phrase begins."""
    for segment in spoken(transcript_text).segments:
        if phrase in segment.text:
            return segment.start
    raise AssertionError(phrase)


async def test_a_paraphrase_finds_the_sentence(library: Library) -> None:
    viewer = await library.viewer()
    biology = await library.lecture(BIOLOGY, viewer)
    await library.lecture(LAW, viewer)
    assert await library.index() == ["done", "done"]
    page = await library.search(viewer, "photosynthesis: how vegetation feeds itself from light")
    assert subject_of(page.rows[0]) == biology
    assert page.rows[0].start_seconds == pytest.approx(seconds_of(BIOLOGY, "own sugar"), abs=0.01)
    assert page.rows[0].highlights == ()
    assert page.rows[0].end_seconds > page.rows[0].start_seconds


@pytest.mark.parametrize("mode", [SearchMode.KEYWORD, SearchMode.HYBRID])
async def test_words_are_found_stemmed_and_marked(library: Library, mode: SearchMode) -> None:
    viewer = await library.viewer()
    await library.lecture(BIOLOGY, viewer)
    law = await library.lecture(LAW, viewer)
    await library.index()
    page = await library.search(viewer, "dismissing appeals", mode)
    hit = page.rows[0]
    assert subject_of(hit) == law
    assert [hit.text[start:end] for start, end in hit.highlights] == ["dismissed", "appeal"]
    assert hit.start_seconds == pytest.approx(seconds_of(LAW, "dismissed"), abs=0.01)


async def test_documents_are_found_by_page(library: Library) -> None:
    viewer = await library.viewer()
    pages = ["Introduction to the course", "", "Entropy never decreases\nin an isolated system."]
    document = await library.document(pages, viewer)
    scan = await library.document(["", ""], viewer)
    broken = await library.document(b"%PDF-1.4 nothing else", viewer)
    assert await library.index() == ["done"] * 3
    for mode in EVERY:
        page = await library.search(viewer, "isolated system entropy", mode)
        assert (subject_of(page.rows[0]), page.rows[0].page) == (document, 3)
    async with library.backends.sessions() as session:
        rows = await session.execute(select(Document.id, Document.has_text))
        told = {row.id: row.has_text for row in rows}
    assert told == {document: True, scan: False, broken: False}


@pytest.mark.parametrize("mode", EVERY)
async def test_strangers_find_nothing(library: Library, mode: SearchMode) -> None:
    owner, stranger, admin = [await library.viewer(is_admin=n == 2) for n in range(3)]
    lecture = await library.lecture(BIOLOGY, owner)
    document = await library.document(["sugar and energy"], owner)
    await library.index()
    for viewer in (stranger, admin):
        for where in ({}, {"lecture_id": lecture}, {"document_id": document}):
            assert (await library.search(viewer, "sugar energy", mode, **where)).rows == ()
    assert (await library.search(owner, "sugar energy", mode)).rows


async def test_what_is_unlinked_is_gone_at_once(library: Library) -> None:
    viewer = await library.viewer()
    lecture = await library.lecture(BIOLOGY, viewer)
    await library.index()
    assert (await library.search(viewer, "sugar")).rows
    async with library.backends.sessions.begin() as session:
        await session.execute(delete(UserLecture).where(UserLecture.lecture_id == lecture))
    assert (await library.search(viewer, "sugar")).rows == ()


async def test_filters_narrow(library: Library) -> None:
    viewer, course = await library.viewer(), uuid4()
    there = await library.lecture(BIOLOGY, viewer, course_id=course)
    here = await library.lecture(BIOLOGY, viewer)
    document = await library.document(["sugar"], viewer)
    await library.index()

    async def found(**where: UUID) -> set[UUID]:
        page = await library.search(viewer, "sugar", SearchMode.KEYWORD, **where)
        return {subject_of(hit) for hit in page.rows}

    assert await found() == {there, here, document}
    assert await found(course_id=course) == {there}
    assert await found(lecture_id=here) == {here}
    assert await found(document_id=document) == {document}
    assert await found(document_id=document, lecture_id=here) == set()
    assert await found(course_id=uuid4()) == set()


async def test_ones_own_topics_and_collections_narrow(library: Library) -> None:
    viewer, stranger = await library.viewer(), await library.viewer()
    biology = await library.lecture(BIOLOGY, viewer, stranger)
    law = await library.lecture(LAW, viewer, stranger)
    pdf = await library.document([BIOLOGY], viewer, stranger)
    other = await library.document([BIOLOGY, LAW], viewer, stranger)
    await library.index()
    work = library.backends.work
    collection = (await create_collection(work, viewer, "Exam", None)).id
    for subject in (biology, pdf):
        await add_to_collection(work, viewer, collection, subject, None)
    topic = (await create_topic(work, viewer, "Plants", None)).id
    async with library.backends.sessions() as session:
        query = select(Transcription.id).where(Transcription.lecture_id == biology)
        words = await session.scalar(query)
    assert words is not None
    await assign_topics(work, viewer, words, [topic])

    async def found(who: Viewer, query: str = "sugar", **where: UUID) -> set[UUID]:
        page = await library.search(who, query, SearchMode.KEYWORD, **where)
        return {subject_of(hit) for hit in page.rows}

    assert await found(viewer) == {biology, pdf, other}
    assert await found(viewer, collection_id=collection) == {biology, pdf}
    assert await found(viewer, "appeal", collection_id=collection) == set()
    assert await found(viewer, "appeal") == {law, other}
    assert await found(viewer, topic_id=topic) == {biology}
    assert await found(stranger, collection_id=collection) == set()
    assert await found(stranger, topic_id=topic) == set()
    await review_topic(work, viewer, words, topic, accept=False)
    assert await found(viewer, topic_id=topic) == set()


async def test_the_current_transcription_is_searched_and_no_other(library: Library) -> None:
    viewer = await library.viewer()
    lecture = await library.lecture(spoken("The quick brown zebra."), viewer)
    await library.index()
    await library.lecture(spoken("The quick brown giraffe.", model="small"), lecture_id=lecture)
    assert (await library.search(viewer, "zebra", SearchMode.KEYWORD)).rows  # until it is indexed
    await library.index()
    assert not (await library.search(viewer, "zebra", SearchMode.KEYWORD)).rows
    assert (await library.search(viewer, "giraffe", SearchMode.KEYWORD)).rows


async def test_neighbours_are_one_hit_and_what_is_apart_is_not(library: Library) -> None:
    viewer = await library.viewer()
    talk = "The derivative measures how a function changes around any single point of it. " * 14
    await library.lecture(talk + "|" + LAW + "|" + talk, viewer)
    await library.index()
    page = await library.search(viewer, "derivative", SearchMode.KEYWORD)
    assert len(page.rows) == 2
    gap = abs(page.rows[0].start_seconds - page.rows[1].start_seconds)
    assert gap > len(LAW.split()) * SECONDS_A_WORD / 2


async def test_pages_fit_while_things_are_added(library: Library) -> None:
    viewer = await library.viewer()
    lectures = {await library.lecture(f"{BIOLOGY} Number {n}.", viewer) for n in range(7)}
    await library.index()
    seen: list[UUID] = []
    page = await library.search(viewer, "sugar", first=3)
    while True:
        seen += [subject_of(hit) for hit in page.rows]
        if not page.has_next:
            break
        await library.lecture("Sugar, sugar, and sugar again: it is all about sugar.", viewer)
        await library.index()
        page = await library.search(viewer, "sugar", first=3, after=page.cursors[-1])
        assert page.has_previous
    assert len(seen) == 7
    assert set(seen) == lectures


HOSTILE = [
    "'", '"', '"unclosed phrase', "or", "- - -", "&|!():*<->", "a & b | !c", ":*", "x:*", "*",
    "the", "   ", "\x00", "\ud800", "'; DROP TABLE users; --", "🙂" * 100, "ش" * 500, "\\", "%",
    "\x02\x03", "-" * 500, '"' * 500, "(" * 500, "a" * 500, "derivat*", '"a*"', "a b c " * 80,
    ]  # fmt: skip


async def test_hostile_queries_answer_calmly(library: Library) -> None:
    viewer = await library.viewer()
    await library.lecture(BIOLOGY, viewer)
    await library.document(["The derivative <b>&amp;</b> 'x' \\ %"], viewer)
    await library.index()
    for query in HOSTILE:
        for mode in EVERY:
            await library.search(viewer, query, mode)


def test_no_query_is_an_error_of_full_text_search(postgres_server: EmbeddedPostgres) -> None:
    marks = st.text(st.sampled_from("-\"'&|!():*<> aor\\é字_²\x00\ud800"), max_size=500)
    parse = "SELECT websearch_to_tsquery($1), to_tsquery(array_to_string($2::text[], ' & '))"
    with asyncio.Runner() as runner:
        where = {"host": str(postgres_server.socket_directory), "user": "studybuddy"}
        connection = runner.run(asyncpg.connect(database="postgres", **where))

        @given(marks | st.text(max_size=500))
        @limits(max_examples=500, deadline=None)
        def check(typed: str) -> None:
            query = parse_query(typed).parameters
            runner.run(connection.fetch(parse, query["text"], query["prefixes"]))

        try:
            check()
        finally:
            runner.run(connection.close())


@pytest.mark.parametrize("query", ["", "a" * 501])
async def test_a_query_has_1_to_500_characters(library: Library, query: str) -> None:
    with pytest.raises(BadUserInput, match="1 to 500"):
        await library.search(await library.viewer(), query)


WEB_QUERIES = {
    "dismissed appeal": True,
    "dismissed sugar": False,
    '"the appeal"': True,
    '"appeal dismissed"': False,
    "appeal -deadline": False,
    "sugar or deadline": True,
    "dead*": True,
    "deadlien": True,
    "dedline apeal": True,
    "zzzz": False,
}


async def test_keyword_search_reads_queries_as_web_search_does(library: Library) -> None:
    viewer = await library.viewer()
    await library.lecture(LAW, viewer)
    await library.index()
    for query, finds in WEB_QUERIES.items():
        page = await library.search(viewer, query, SearchMode.KEYWORD)
        assert bool(page.rows) is finds, query


async def test_without_an_embedder_there_are_words(library: Library) -> None:
    library.embedder = None
    viewer = await library.viewer()
    await library.lecture(LAW, viewer)
    await library.index()
    assert (await library.search(viewer, "appeal")).rows
    with pytest.raises(BadUserInput, match="KEYWORD"):
        await library.search(viewer, "appeal", SearchMode.SEMANTIC)


async def test_without_the_extension_there_are_words(library: Library) -> None:
    async with library.backends.sessions.begin() as session:
        await session.execute(text("DROP EXTENSION vector CASCADE"))
        await session.execute(text("DROP TABLE transcription_vectors, page_vectors"))
        await session.execute(text("DROP EXTENSION pg_trgm CASCADE"))
    viewer = await library.viewer()
    await library.lecture(LAW, viewer)
    await library.index()
    assert (await library.search(viewer, "appeal")).rows
    assert not (await library.search(viewer, "apeal")).rows
    with pytest.raises(BadUserInput, match="KEYWORD"):
        await library.search(viewer, "appeal", SearchMode.SEMANTIC)


async def test_vectors_of_another_model_are_not_compared(library: Library) -> None:
    viewer = await library.viewer()
    await library.lecture(BIOLOGY, viewer)
    await library.index()
    async with library.backends.sessions.begin() as session:
        await session.execute(update(Transcription).values(embedder="another"))
    assert not (await library.search(viewer, "sugar", SearchMode.SEMANTIC)).rows
    assert (await library.search(viewer, "sugar", SearchMode.HYBRID)).rows


async def test_beyond_the_exact_limit_the_indexes_find_the_same(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, stranger = await library.viewer(), await library.viewer()
    for number in range(6):
        await library.lecture(
            f"{BIOLOGY} {LAW} Number {number}.", stranger, *[viewer][: number % 2]
        )
    await library.document(["Entropy is never lost", "sugar and light"], viewer)
    await library.index()
    for mode in EVERY:
        for query in ("sugar", "a judge said no", "entropy"):
            exact = await library.search(viewer, query, mode)
            monkeypatch.setattr(read, "EXACT_CHUNKS", 0)
            indexed = await library.search(viewer, query, mode)
            assert [replace(hit, subject=subject_of(hit)) for hit in indexed.rows] == [
                replace(hit, subject=subject_of(hit)) for hit in exact.rows
            ]
            monkeypatch.undo()


async def test_indexing_again_changes_nothing_and_two_at_once_do_no_harm(library: Library) -> None:
    viewer = await library.viewer()
    lecture = await library.lecture(BIOLOGY, viewer)
    await library.index()
    async with library.backends.sessions.begin() as session:
        (row,) = await session.scalars(
            Transcription.__table__.select().with_only_columns(Transcription.id)
        )
        before = (await session.execute(TranscriptionChunk.__table__.select())).all()
    from app.db import ledger
    from app.domain import JobKind

    async with library.backends.sessions.begin() as session:
        await ledger.open_job(session, JobKind.INDEX, row, None)
    results = await asyncio.gather(library.index(), library.index())
    assert sorted(map(len, results)) == [0, 1]
    async with library.backends.sessions.begin() as session:
        assert (await session.execute(TranscriptionChunk.__table__.select())).all() == before
    assert {subject_of(hit) for hit in (await library.search(viewer, "sugar")).rows} == {lecture}
