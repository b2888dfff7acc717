"""What each operation asks of the database: no query per row, and nothing that was not selected."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from uuid import uuid4

import pytest
from sqlalchemy import event, insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.auth.links import LinkSigner
from app.auth.viewer import Viewer
from app.backends import Backends, open_backends
from app.context import QUERIES_AT_ONCE, AppState, GraphQLContext
from app.db.models import Course, Document, Lecture, User, UserDocument, UserLecture
from app.schema.root import schema
from app.services.collections.change import add_to_collection, create_collection
from app.services.kernel.quotas import Allowance
from app.services.topics.assign import assign_topics
from app.services.topics.change import create_topic
from app.settings import Settings
from tests.support.rows import add_document, add_lecture, add_transcription

ROWS = 30
LECTURES = "{ lectures(first: 30) { nodes { id title viewerCanCancel course { code title } } } }"
DOCUMENTS = "{ documents(first: 30) { nodes { id filename course { code } signedFileUrl } } }"


@contextmanager
def counted(engine: AsyncEngine) -> Iterator[list[str]]:
    statements: list[str] = []

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        statements.append(statement)

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    yield statements
    event.remove(engine.sync_engine, "before_cursor_execute", note)


@pytest.fixture
async def backends(settings: Settings) -> AsyncIterator[Backends]:
    async with open_backends(settings) as backends:
        yield backends


@pytest.fixture
async def viewer(sessions: async_sessionmaker[AsyncSession]) -> Viewer:
    """A student with thirty lectures and documents, each in a course of its own."""
    viewer = Viewer(uuid4(), "issuer", "subject", is_admin=False, expires_at=0)
    async with sessions.begin() as session:
        await session.execute(insert(User).values(id=viewer.id, issuer="issuer", subject="subject"))
        for number in range(ROWS):
            course, item = uuid4(), uuid4()
            await session.execute(
                insert(Course).values(id=course, code=f"C {number}", title=f"Course {number}")
            )
            url = f"https://example.org/{number}.mp4"
            await session.execute(
                insert(Lecture).values(
                    id=item, course_id=course, panopto_url=url, canonical_url=url
                )
            )
            await session.execute(insert(UserLecture).values(user_id=viewer.id, lecture_id=item))
            await session.execute(
                insert(Document).values(
                    id=item,
                    course_id=course,
                    filename="a.pdf",
                    storage_key=f"documents/{item}.pdf",
                    checksum="0" * 64,
                    mime_type="application/pdf",
                    size_bytes=5,
                )
            )
            await session.execute(
                insert(UserDocument).values(
                    user_id=viewer.id, document_id=item, filename="mine.pdf"
                )
            )
    return viewer


@asynccontextmanager
async def running(
    backends: Backends, viewer: Viewer, query: str, state: AppState | None = None
) -> AsyncIterator[tuple[dict[str, object], list[str]]]:
    state = state or AppState(backends.settings, backends, LinkSigner(b"secret"))
    allowance = Allowance(backends.requests, viewer.id, None)
    context = GraphQLContext(state, viewer, "request", allowance)
    with counted(backends.engine) as statements:
        result = await schema.execute(query, context_value=context)
    assert result.errors is None
    assert result.data is not None
    yield result.data, statements


async def test_a_page_with_its_courses_is_one_query(backends: Backends, viewer: Viewer) -> None:
    for query, name in ((LECTURES, "lectures"), (DOCUMENTS, "documents")):
        async with running(backends, viewer, query) as (data, statements):
            nodes = data[name]["nodes"]  # type: ignore[index]
            assert len(nodes) == ROWS
            assert all(node["course"]["code"] for node in nodes)
            assert len(statements) == 1, statements


async def test_nodes_are_one_query_a_type(backends: Backends, viewer: Viewer) -> None:
    ids = []
    for query, name in ((LECTURES, "lectures"), (DOCUMENTS, "documents")):
        async with running(backends, viewer, query) as (data, _):
            ids += [node["id"] for node in data[name]["nodes"]]  # type: ignore[index]
    wanted = json.dumps([*ids, str(uuid4()), *ids[:9]])
    async with running(backends, viewer, f"{{ nodes(ids: {wanted}) {{ id }} }}") as result:
        data, statements = result
        found = data["nodes"]
        assert isinstance(found, list)
        assert [node and node["id"] for node in found] == [*ids, None, *ids[:9]]
        assert len(statements) == 6, statements


async def test_the_transcripts_of_a_page_of_lectures_are_one_statement(
    backends: Backends, viewer: Viewer
) -> None:
    query = "{ lectures(first: 100) { nodes { id transcription { id } transcriptions { id } } } }"
    async with running(backends, viewer, query) as (data, statements):
        assert len(data["lectures"]["nodes"]) == ROWS  # type: ignore[index]
        assert len(statements) == 2, statements


async def test_the_items_of_a_page_of_collections_are_a_few_statements(
    backends: Backends, viewer: Viewer, sessions: async_sessionmaker[AsyncSession]
) -> None:
    subjects = [await add_lecture(sessions, viewer) for _ in range(5)]
    subjects += [await add_document(sessions, viewer) for _ in range(5)]
    for _ in range(5):
        made = await create_collection(backends.work, viewer, "Exam", None)
        for subject in subjects:
            await add_to_collection(backends.work, viewer, made.id, subject, 0)
    query = """{
      collections { nodes {
        items(first: 9) { totalCount nodes { position subject {
          ... on Lecture { id course { code } } ... on Document { id filename }
        } } }
        rest: items(first: 9, after: "WyI4IiwiMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAiXQ") {
          nodes { position }
        }
      } }
    }"""
    async with running(backends, viewer, query) as (data, statements):
        nodes = data["collections"]["nodes"]  # type: ignore[index]
        assert len(nodes) == 5
        for node in nodes:
            assert node["items"]["totalCount"] == 10
            assert [item["position"] for item in node["items"]["nodes"]] == list(range(9))
            found = [item["subject"]["id"] for item in node["items"]["nodes"]]
            assert found == [str(subject) for subject in reversed(subjects[1:])]
            assert [item["position"] for item in node["rest"]["nodes"]] == [9]
        # Collections, items, counts, lectures, documents.
        assert len(statements) == 5, statements


async def test_topics_are_a_statement_a_field(
    backends: Backends, viewer: Viewer, sessions: async_sessionmaker[AsyncSession]
) -> None:
    topics = [
        (await create_topic(backends.work, viewer, f"Topic {number}", None)).id
        for number in range(3)
    ]
    for _ in range(4):
        words = await add_transcription(sessions, await add_lecture(sessions, viewer))
        await assign_topics(backends.work, viewer, words, topics)
    query = "{ topics { nodes { name lectureCount } } }"
    async with running(backends, viewer, query) as (data, statements):
        counts = [node["lectureCount"] for node in data["topics"]["nodes"]]  # type: ignore[index]
        assert counts == [4, 4, 4]
        assert len(statements) == 2, statements
    query = "{ transcriptions { nodes { topics { topic { name lectureCount } } } } }"
    async with running(backends, viewer, query) as (data, statements):
        found = data["transcriptions"]["nodes"]  # type: ignore[index]
        assert [len(node["topics"]) for node in found] == [3] * 4
        assert len(statements) == 3, statements


async def test_many_links_go_in_a_few_statements(backends: Backends, viewer: Viewer) -> None:
    for query, name, kind, most in (
        (LECTURES, "lectures", "Lecture", 8),
        (DOCUMENTS, "documents", "Document", 7),
    ):
        async with running(backends, viewer, query) as (data, _):
            ids = json.dumps([node["id"] for node in data[name]["nodes"]])  # type: ignore[index]
        result = f"... on Unlink{kind}Payload {{ deleted }}"
        results = f"... on Unlink{kind}sPayload {{ results {{ {result} }} }}"
        unlink = f"mutation {{ unlink{kind}s(ids: {ids}) {{ {results} }} }}"
        async with running(backends, viewer, unlink) as (data, statements):
            assert data[f"unlink{kind}s"] == {"results": [{"deleted": True}] * ROWS}
            assert len(statements) == most, statements


async def test_the_total_is_counted_only_where_it_is_selected(
    backends: Backends, viewer: Viewer
) -> None:
    query = "{ lectures(first: 1) { totalCount nodes { id } } }"
    async with running(backends, viewer, query) as (data, statements):
        assert data["lectures"]["totalCount"] == ROWS  # type: ignore[index]
        assert len(statements) == 2
        assert sum("count(" in statement for statement in statements) == 1


async def test_the_viewer_needs_no_query(backends: Backends, viewer: Viewer) -> None:
    async with running(backends, viewer, "{ viewer { id isAdmin } }") as (_, statements):
        assert statements == []
    counts = "{ viewer { lectureCounts { status count } } }"
    async with running(backends, viewer, counts) as (_, statements):
        assert len(statements) == 1


async def test_twenty_fields_of_one_user_leave_most_of_the_pool_alone(
    backends: Backends, viewer: Viewer
) -> None:
    most = 0

    def note(*_: object) -> None:
        nonlocal most
        most = max(most, backends.engine.pool.checkedout())  # type: ignore[attr-defined]

    event.listen(backends.engine.sync_engine, "before_cursor_execute", note)
    page = LECTURES.removeprefix("{ ").removesuffix(" }")
    pages = " ".join(f"f{number}: {page}" for number in range(10))
    totals = " ".join(f"t{number}: lectures {{ totalCount }}" for number in range(10))
    state = AppState(backends.settings, backends, LinkSigner(b"secret"))

    async def ask(fields: str) -> int:
        async with running(backends, viewer, f"{{ {fields} }}", state) as (data, _):
            return len(data)

    assert await asyncio.gather(ask(pages), ask(totals)) == [10, 10]
    assert 1 < most <= QUERIES_AT_ONCE
