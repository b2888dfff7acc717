"""Proofs by EXPLAIN, at 100,000 lectures and documents and 200,000 links each.

A page of a list is one range of one index, already in order: its cost depends on the page's size
alone, not on how many rows there are of this user or of others.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text, true
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection

from app.auth.viewer import Viewer
from app.db.engine import make_engine
from app.embedded.postgres import EmbeddedPostgres
from app.services.lectures.read import as_seen_by, linked, select_real

PAGE = 51  # 50 and the one that tells whether there are more
USERS = 1000
ITEMS = 100_000
LINKS_PER_ITEM = 2

# Links have times of their own but for every tenth, which shares the previous one's.  Foreign keys
# are not checked while loading: they are right by construction.
LOAD = [
    "SET LOCAL session_replication_role = replica",
    "CREATE FUNCTION nth(kind int, n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS"
    " $$ SELECT (lpad(kind::text, 8, '0') || lpad(to_hex(n), 24, '0'))::uuid $$",
    f"""INSERT INTO users (id, issuer, subject)
    SELECT nth(1, n), 'https://issuer.test', n::text FROM generate_series(1, {USERS}) AS n""",
    f"""INSERT INTO lectures
        (id, course_id, panopto_session_id, panopto_url, canonical_url, created_at)
    SELECT nth(2, n), nth(4, n % 50), md5(n::text), 'https://p.test/' || n, 'https://p.test/' || n,
           timestamptz '2026-01-01' + (n * 7919 % {ITEMS}) * interval '1 minute'
    FROM generate_series(1, {ITEMS}) AS n""",
    f"""INSERT INTO documents
        (id, course_id, filename, storage_key, checksum, mime_type, size_bytes)
    SELECT nth(3, n), nth(4, n % 50), 'a.pdf', 'documents/' || n || '.pdf',
           md5(n::text) || md5((-n)::text), 'application/pdf', n
    FROM generate_series(1, {ITEMS}) AS n""",
    *(
        f"""INSERT INTO {table}
        SELECT nth(1, 1 + (n * 31 + link * 17) % {USERS}), nth({kind}, n) {filename},
               timestamptz '2026-02-01' + (n - (n % 10 = 0)::int) * interval '1 second'
        FROM generate_series(1, {ITEMS}) AS n, generate_series(1, {LINKS_PER_ITEM}) AS link"""
        for table, kind, filename in (
            ("user_lectures", 2, ""),
            ("user_documents", 3, ", 'mine.pdf'"),
        )
    ),
]

OWN_LECTURES = """
SELECT lectures.id, link.created_at, lectures.title, courses.code
FROM user_lectures AS link
JOIN lectures ON lectures.id = link.lecture_id
LEFT JOIN courses ON courses.id = lectures.course_id
WHERE link.user_id = CAST(:user_id AS uuid) {after}
ORDER BY link.created_at DESC, link.lecture_id LIMIT {page}
"""
OWN_DOCUMENTS = """
SELECT documents.id, link.created_at, link.filename
FROM user_documents AS link
JOIN documents ON documents.id = link.document_id
WHERE link.user_id = CAST(:user_id AS uuid) {after}
ORDER BY link.created_at DESC, link.document_id LIMIT {page}
"""
ALL_LECTURES = """
SELECT link.id, link.created_at, title FROM lectures AS link
WHERE true {after}
ORDER BY link.created_at DESC, link.id LIMIT {page}
"""
# Newest first but ids upwards: no row comparison says that.  The first condition is the range of
# the index; the second only drops what shares the cursor's very moment.
AFTER = """
AND link.created_at <= CAST(:at AS timestamptz)
AND (link.created_at < CAST(:at AS timestamptz) OR link.{id} > CAST(:id AS uuid))
"""
LISTS = {
    "own lectures": (OWN_LECTURES, "lecture_id", "idx_user_lectures_user_id_created_at"),
    "own documents": (OWN_DOCUMENTS, "document_id", "idx_user_documents_user_id_created_at"),
    "all lectures": (ALL_LECTURES, "id", "idx_lectures_created_at"),
}
every_list = pytest.mark.parametrize(("query", "id_column", "index"), LISTS.values(), ids=LISTS)


@pytest.fixture(scope="module")
def loaded_url(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """A database with the rows above, for all tests of this file; none of them changes it."""
    name = "test_query_plans"
    asyncio.run(
        _administer(postgres_server.url, f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    )
    url = make_url(postgres_server.url).set(database=name).render_as_string(hide_password=False)
    asyncio.run(_load(url))
    yield url
    asyncio.run(_administer(postgres_server.url, f"DROP DATABASE {name} WITH (FORCE)"))


async def _administer(url: str, *statements: str) -> None:
    engine = make_engine(url, pool_size=1)
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in statements:
            await connection.execute(text(statement))
    await engine.dispose()


async def _load(url: str) -> None:
    engine = make_engine(url, pool_size=1)
    async with engine.begin() as connection:
        for statement in LOAD:
            await connection.exec_driver_sql(statement)
    await engine.dispose()
    await _administer(url, "VACUUM ANALYZE")


@pytest.fixture
async def loaded(loaded_url: str) -> AsyncIterator[AsyncConnection]:
    engine = make_engine(loaded_url, pool_size=1)
    async with engine.connect() as connection:
        yield connection
    await engine.dispose()


async def _plan(
    connection: AsyncConnection, query: str, mode: str = "force_custom_plan", **values: str
) -> Any:
    """Return the root of the plan, as EXPLAIN ANALYZE tells it.

    A custom plan is made for the values at hand, as for every statement that the engine does not
    cache; a generic one for any values.
    """
    await connection.execute(text(f"SET LOCAL plan_cache_mode = {mode}"))
    for place, name in enumerate(values, start=1):
        query = query.replace(f":{name}", f"${place}")
    arguments = ", ".join(f"'{value}'" for value in values.values())
    arguments = f"({arguments})" if arguments else ""
    await connection.exec_driver_sql(f"PREPARE page AS {query}")
    explained = await connection.exec_driver_sql(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE page {arguments}"
    )
    plan = explained.scalar_one()
    await connection.exec_driver_sql("DEALLOCATE page")
    return (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]


def _nodes(plan: Any) -> Iterator[Any]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _check(plan: Any, index: str, table: str) -> Any:
    """Assert that the page comes out of the index in order and reads no more than a page."""
    nodes = list(_nodes(plan))
    kinds = {node["Node Type"] for node in nodes}
    assert not {kind for kind in kinds if "Sort" in kind or "Hash" in kind or "Bitmap" in kind}
    assert not [n for n in nodes if n["Node Type"] == "Seq Scan" and n["Relation Name"] == table]
    (scan,) = [node for node in nodes if node.get("Index Name") == index]
    assert scan["Actual Loops"] == 1
    assert scan["Actual Rows"] <= PAGE
    assert plan["Actual Rows"] == PAGE
    # A few pages of the index, and at most a few of each table for every row.
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] <= 10 + 8 * PAGE
    return scan


async def _middle(connection: AsyncConnection, query: str, user_id: str) -> tuple[str, str]:
    """Return the position of a row deep in the list."""
    rows = await connection.execute(
        text(query.format(after="", page=1) + " OFFSET 100"),
        {"user_id": user_id} if ":user_id" in query else {},
    )
    row = rows.one()
    return row[1].isoformat(), str(row[0])


async def _some_user(connection: AsyncConnection) -> str:
    return str(await connection.scalar(text("SELECT nth(1, 500)")))


def _values(query: str, **values: str) -> dict[str, str]:
    return {name: value for name, value in values.items() if f":{name}" in query}


async def test_as_many_rows_as_promised(loaded: AsyncConnection) -> None:
    for table in ("lectures", "documents"):
        assert await loaded.scalar(text(f"SELECT count(*) FROM {table}")) == ITEMS
        links = await loaded.scalar(text(f"SELECT count(*) FROM user_{table}"))
        assert links == ITEMS * LINKS_PER_ITEM


@every_list
async def test_first_page_is_one_range_of_the_index(
    loaded: AsyncConnection, query: str, id_column: str, index: str
) -> None:
    values = _values(query, user_id=await _some_user(loaded))
    plan = await _plan(loaded, query.format(after="", page=PAGE), **values)
    scan = _check(plan, index, table="lectures" if "lectures" in index else "documents")
    if "user_id" in index:
        assert "user_id = " in scan["Index Cond"]


@every_list
async def test_later_page_starts_in_the_middle_of_the_index(
    loaded: AsyncConnection, query: str, id_column: str, index: str
) -> None:
    user_id = await _some_user(loaded)
    at, last_id = await _middle(loaded, query, user_id)
    paged = query.format(after=AFTER.format(id=id_column), page=PAGE)
    values = _values(paged, user_id=user_id, at=at, id=last_id)
    plan = await _plan(loaded, paged, **values)
    scan = _check(plan, index, table="lectures" if "lectures" in index else "documents")
    assert "created_at <= " in scan["Index Cond"]
    assert scan.get("Rows Removed by Filter", 0) <= 2  # the cursor's own row, and its twin


@every_list
async def test_pages_joined_are_the_whole_list(
    loaded: AsyncConnection, query: str, id_column: str, index: str
) -> None:
    """With times that repeat, and page bounds that fall between twins."""
    user_id = await _some_user(loaded)
    whole = query.format(after="", page=150)
    values = _values(query, user_id=user_id)
    expected = [(row[1], row[0]) for row in await loaded.execute(text(whole), values)]
    assert len(expected) == 150
    seen: list[tuple[Any, Any]] = []
    while len(seen) < len(expected):
        after = AFTER.format(id=id_column) if seen else ""
        position = {"at": seen[-1][0], "id": seen[-1][1]} if seen else {}
        page = await loaded.execute(text(query.format(after=after, page=7)), values | position)
        seen += [(row[1], row[0]) for row in page]
    assert seen[: len(expected)] == expected


@pytest.mark.parametrize("name", ["own lectures", "own documents"])
async def test_generic_plan_reads_no_more_than_the_users_own_links(
    loaded: AsyncConnection, name: str
) -> None:
    """PostgreSQL may sort there, since it guesses that few links come after a cursor."""
    query, id_column, index = LISTS[name]
    user_id = await _some_user(loaded)
    at, last_id = await _middle(loaded, query, user_id)
    paged = query.format(after=AFTER.format(id=id_column), page=PAGE)
    values = {"user_id": user_id, "at": at, "id": last_id}
    plan = await _plan(loaded, paged, "force_generic_plan", **values)
    (scan,) = [node for node in _nodes(plan) if node.get("Index Name") == index]
    assert "user_id = $1" in scan["Index Cond"]
    assert "created_at <= $2" in scan["Index Cond"]
    assert scan["Actual Rows"] <= ITEMS * LINKS_PER_ITEM // USERS


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("user_lectures WHERE lecture_id = nth(2, 7)", "idx_user_lectures_lecture_id"),
        ("user_documents WHERE document_id = nth(3, 7)", "idx_user_documents_document_id"),
        ("user_lectures WHERE user_id = nth(1, 7) AND lecture_id = nth(2, 7)", "pk_user_lectures"),
        (
            "lectures WHERE course_id = nth(4, 7) AND panopto_session_id = md5('7')",
            "uq_lectures_course_id_panopto_session_id",
        ),
        ("documents WHERE checksum = md5('7') || md5('-7')", "idx_documents_checksum"),
    ],
)
async def test_lookup_is_a_search_of_its_index(
    loaded: AsyncConnection, query: str, index: str
) -> None:
    plan = await _plan(loaded, f"SELECT 1 FROM {query}")
    assert [node.get("Index Name") for node in _nodes(plan) if "Index Name" in node] == [index]


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_many_ids_are_as_many_look_ups(loaded: AsyncConnection, mode: str) -> None:
    """However many lectures and links there are: by index alone, for a student and for an admin."""
    ids = [UUID(f"00000002{number:024x}") for number in range(1, 101)]
    user_id = UUID(await _some_user(loaded))
    for is_admin in (False, True):
        viewer = Viewer(user_id, "issuer", "subject", is_admin=is_admin, expires_at=0)
        query = as_seen_by(viewer, select_real(ids)).where(true() if is_admin else linked(viewer))
        compiled = query.compile(dialect=postgresql.dialect(paramstyle="named"))
        values = {name: str(value) for name, value in compiled.params.items()}
        array = "{" + ",".join(map(str, ids)) + "}"
        values |= {name: array for name, value in compiled.params.items() if value == ids}
        plan = await _plan(loaded, compiled.string, mode, **values)
        scans = [node for node in _nodes(plan) if node.get("Relation Name")]
        assert not [node for node in scans if node["Node Type"] == "Seq Scan" and is_large(node)]
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] <= 20 * len(ids)


def is_large(scan: Any) -> bool:
    return scan["Relation Name"] in {"lectures", "user_lectures"}
