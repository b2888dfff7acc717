"""What the database itself keeps right: triggers, uniqueness, checks, and cheap progress."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

COURSE = UUID(int=7)
PROGRESS = ["stage = 'fetching'", "downloaded_bytes = 5", "total_bytes = 9"]


@pytest.fixture
async def connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection on which every statement is a transaction of its own."""
    async with engine.connect() as connection:
        yield await connection.execution_options(isolation_level="AUTOCOMMIT")


async def insert(connection: AsyncConnection, table: str, **values: Any) -> UUID:
    columns, places = ", ".join(values), ", ".join(f":{name}" for name in values)
    statement = text(f"INSERT INTO {table} ({columns}) VALUES ({places}) RETURNING id")
    return (await connection.execute(statement, values)).scalar_one()


async def insert_lecture(connection: AsyncConnection, **values: Any) -> UUID:
    url = f"https://lectures.test/{uuid4()}"
    defaults = {"course_id": COURSE, "panopto_url": url, "canonical_url": url}
    return await insert(connection, "lectures", **(defaults | values))


async def insert_document(connection: AsyncConnection, **values: Any) -> UUID:
    defaults = {
        "course_id": COURSE,
        "filename": "notes.pdf",
        "storage_key": f"documents/{uuid4()}.pdf",
        "checksum": uuid4().hex * 2,
        "mime_type": "application/pdf",
        "size_bytes": 1,
    }
    return await insert(connection, "documents", **(defaults | values))


async def insert_job(connection: AsyncConnection, **values: Any) -> UUID:
    return await insert(connection, "jobs", **({"kind": "k", "subject_id": uuid4()} | values))


async def insert_any(connection: AsyncConnection, table: str) -> UUID:
    match table:
        case "lectures":
            return await insert_lecture(connection)
        case "documents":
            return await insert_document(connection)
        case "jobs":
            return await insert_job(connection)
        case "courses":
            return await insert(connection, table, code=uuid4().hex, title="A title")
        case _:
            return await insert(connection, table, issuer="https://i.test", subject=uuid4().hex)


async def row_of(connection: AsyncConnection, table: str, row_id: UUID) -> dict[str, Any]:
    found = await connection.execute(text(f"SELECT * FROM {table} WHERE id = :id"), {"id": row_id})
    return dict(found.mappings().one())


async def update(connection: AsyncConnection, table: str, row_id: UUID, assignment: str) -> Any:
    """Update the row and return it before and after."""
    before = await row_of(connection, table, row_id)
    statement = text(f"UPDATE {table} SET {assignment} WHERE id = :id")
    await connection.execute(statement, {"id": row_id})
    return before, await row_of(connection, table, row_id)


@pytest.mark.parametrize(
    ("table", "assignment"),
    [
        ("users", "subject = 'someone'"),
        ("courses", "title = 'Another'"),
        ("lectures", "title = 'Another'"),
        ("documents", "page_count = 3"),
        ("jobs", "attempt = 1"),
    ],
)
async def test_updated_at_follows_a_change_and_nothing_else(
    connection: AsyncConnection, table: str, assignment: str
) -> None:
    row_id = await insert_any(connection, table)
    before, after = await update(connection, table, row_id, assignment)
    assert after["updated_at"] > before["updated_at"]
    assert after["created_at"] == before["created_at"]
    _, again = await update(connection, table, row_id, assignment)
    assert again == after


async def test_updated_at_is_the_databases_alone(connection: AsyncConnection) -> None:
    row_id = await insert_any(connection, "users")
    before, after = await update(connection, "users", row_id, "updated_at = '2001-01-01'")
    assert after["updated_at"] > before["updated_at"]


async def test_progress_raises_the_revision_and_leaves_updated_at(
    connection: AsyncConnection,
) -> None:
    for assignment in (*PROGRESS, ", ".join(PROGRESS)):
        row_id = await insert_lecture(connection)
        before, after = await update(connection, "lectures", row_id, assignment)
        assert before["revision"] == 1, assignment
        assert after["revision"] == 2, assignment
        assert after["updated_at"] == before["updated_at"], assignment


REAL_CHANGES = [
    "status = 'downloading', stage = 'resolving'",
    "stream_url = 'https://s.test/'",
    "attempt = 1",
    "next_attempt_at = now()",
    "audio_storage_key = 'audio/a.m4a'",
    "status = 'failed', failure = 'timeout', error_message = 'Too slow.'",
    "revision = 0, title = 'By hand'",
]


async def test_a_real_change_raises_revision_by_one_and_updated_at(
    connection: AsyncConnection,
) -> None:
    for assignment in REAL_CHANGES:
        row_id = await insert_lecture(connection)
        before, after = await update(connection, "lectures", row_id, assignment)
        assert after["revision"] == before["revision"] + 1, assignment
        assert after["updated_at"] > before["updated_at"], assignment
        _, again = await update(connection, "lectures", row_id, "title = title, status = status")
        assert again == after, assignment


async def test_a_documents_change_raises_its_revision(connection: AsyncConnection) -> None:
    row_id = await insert_document(connection)
    before, after = await update(connection, "documents", row_id, "page_count = 3")
    assert (before["revision"], after["revision"]) == (1, 2)
    _, again = await update(connection, "documents", row_id, "page_count = 3")
    assert again == after


async def test_a_users_new_name_raises_the_revision_alone(connection: AsyncConnection) -> None:
    user_id = await insert_any(connection, "users")
    document_id, other_id = await insert_document(connection), await insert_document(connection)
    for each in (document_id, other_id):
        await connection.execute(
            text("INSERT INTO user_documents VALUES (:user_id, :document_id, 'mine.pdf')"),
            {"user_id": user_id, "document_id": each},
        )
    before = await row_of(connection, "documents", document_id)
    for filename, revision in (("mine.pdf", 1), ("yours.pdf", 2), ("yours.pdf", 2)):
        await connection.execute(
            text("UPDATE user_documents SET filename = :name WHERE document_id = :id"),
            {"name": filename, "id": document_id},
        )
        after = await row_of(connection, "documents", document_id)
        assert after == before | {"revision": revision}
    assert (await row_of(connection, "documents", other_id))["revision"] == 1


async def test_revision_cannot_be_set(connection: AsyncConnection) -> None:
    row_id = await insert_lecture(connection)
    _, after = await update(connection, "lectures", row_id, "revision = -5")
    assert after["revision"] == 2


async def test_a_heartbeat_leaves_updated_at_and_a_claim_does_not(
    connection: AsyncConnection,
) -> None:
    row_id = await insert_job(connection)
    claim = "state = 'running', lease_token = gen_random_uuid(), lease_until = now()"
    before, claimed = await update(connection, "jobs", row_id, claim)
    assert claimed["updated_at"] > before["updated_at"]
    _, beaten = await update(connection, "jobs", row_id, "lease_until = now() + interval '6 s'")
    assert beaten["lease_until"] > claimed["lease_until"]
    assert beaten["updated_at"] == claimed["updated_at"]


async def heap_only(connection: AsyncConnection, table: str) -> tuple[int, int]:
    """Return how many updates the table has seen, and how many of them were heap-only."""
    await connection.execute(text("SELECT pg_stat_force_next_flush()"))
    counts = await connection.execute(
        text("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = :table"),
        {"table": table},
    )
    updates, hot = counts.one()
    return updates, hot


async def test_progress_is_heap_only(connection: AsyncConnection) -> None:
    rows = [await insert_lecture(connection, title="t" * 100) for _ in range(40)]
    updates_before, hot_before = await heap_only(connection, "lectures")
    progress = text("UPDATE lectures SET downloaded_bytes = :n, total_bytes = 99 WHERE id = :id")
    for n in range(1, 11):
        for row_id in rows:
            await connection.execute(progress, {"id": row_id, "n": n})
    updates, hot = await heap_only(connection, "lectures")
    assert updates - updates_before == 400
    assert hot - hot_before == 400


async def test_heartbeats_are_heap_only(connection: AsyncConnection) -> None:
    lease = {"state": "running", "lease_token": uuid4()}
    for _ in range(64):
        job_id = await insert_job(connection)
        await connection.execute(
            text(
                "UPDATE jobs SET state = 'running', lease_token = :lease_token, lease_until = now()"
                " WHERE id = :id"
            ),
            {"id": job_id, "lease_token": lease["lease_token"]},
        )
    updates_before, hot_before = await heap_only(connection, "jobs")
    for _ in range(20):
        await connection.execute(
            text("UPDATE jobs SET lease_until = clock_timestamp() WHERE lease_token = :token"),
            {"token": lease["lease_token"]},
        )
    updates, hot = await heap_only(connection, "jobs")
    assert updates - updates_before == 20 * 64
    assert hot - hot_before == 20 * 64


async def test_no_index_names_what_progress_and_heartbeats_change(
    connection: AsyncConnection,
) -> None:
    """Columns, expressions and predicates alike: each would end heap-only updates."""
    definitions = await connection.execute(
        text("SELECT indexdef FROM pg_indexes WHERE tablename IN ('lectures', 'jobs')")
    )
    changing = ("stage", "downloaded_bytes", "total_bytes", "revision", "lease_until")
    for definition in definitions.scalars():
        assert not [column for column in changing if column in definition]
        assert "updated_at" not in definition or "idx_jobs_finished" in definition


async def refused(connection: AsyncConnection, table: str, constraint: str, **values: Any) -> None:
    """Assert that the constraint refuses the row, and that nothing was written."""
    count = text(f"SELECT count(*) FROM {table}")
    before = await connection.scalar(count)
    make = {"lectures": insert_lecture, "documents": insert_document, "jobs": insert_job}
    row = (
        make[table](connection, **values) if table in make else insert(connection, table, **values)
    )
    with pytest.raises(IntegrityError) as error:
        await row
    assert error.value.orig is not None
    driver_error = error.value.orig.__cause__
    assert getattr(driver_error, "constraint_name", None) == constraint
    assert await connection.scalar(count) == before


async def test_identities_are_unique(connection: AsyncConnection) -> None:
    session, url, checksum = uuid4().hex, "https://lectures.test/1", "a" * 64
    await insert_lecture(connection, panopto_session_id=session, canonical_url=url)
    await refused(
        connection,
        "lectures",
        "uq_lectures_course_id_panopto_session_id",
        panopto_session_id=session,
    )
    await insert_lecture(connection, panopto_session_id=session, course_id=uuid4())
    await insert_document(connection, checksum=checksum)
    await refused(connection, "documents", "uq_documents_course_id_checksum", checksum=checksum)
    await insert_document(connection, checksum=checksum, course_id=uuid4())


async def test_a_url_is_the_identity_only_without_a_session(connection: AsyncConnection) -> None:
    url, name = "https://lectures.test/1", "uq_lectures_course_id_canonical_url"
    await insert_lecture(connection, panopto_session_id="a1", canonical_url=url)
    await insert_lecture(connection, panopto_session_id="b2", canonical_url=url)
    late = await insert_lecture(connection, canonical_url=url)
    await refused(connection, "lectures", name, canonical_url=url)
    await insert_lecture(connection, canonical_url=url, course_id=uuid4())
    await update(connection, "lectures", late, "panopto_session_id = 'c3'")
    await insert_lecture(connection, canonical_url=url)


async def test_names_are_unique(connection: AsyncConnection) -> None:
    await insert(connection, "courses", code="CS 1", title="One")
    await refused(connection, "courses", "uq_courses_code", code="CS 1", title="Two")
    await insert(connection, "users", issuer="https://i.test", subject="s")
    await refused(
        connection, "users", "uq_users_issuer_subject", issuer="https://i.test", subject="s"
    )


async def test_one_job_is_open_per_kind_and_subject(connection: AsyncConnection) -> None:
    subject, name = uuid4(), "uq_jobs_kind_subject_id_open"
    job_id = await insert_job(connection, subject_id=subject)
    await refused(connection, "jobs", name, subject_id=subject)
    await insert_job(connection, subject_id=subject, kind="other")
    claim = "state = 'running', lease_token = gen_random_uuid(), lease_until = now()"
    await update(connection, "jobs", job_id, claim)
    await refused(connection, "jobs", name, subject_id=subject)
    closed = "state = 'cancelled', lease_token = NULL, lease_until = NULL"
    await update(connection, "jobs", job_id, closed)
    await insert_job(connection, subject_id=subject)


CHECKED: list[tuple[str, str, dict[str, Any]]] = [
    ("lectures", "ck_lectures_session_id", {"panopto_session_id": "ABCD"}),
    ("lectures", "ck_lectures_urls", {"panopto_url": "u" * 2049}),
    ("lectures", "ck_lectures_urls", {"stream_url": "u" * 2049}),
    ("lectures", "ck_lectures_canonical_url", {"canonical_url": "u" * 2601}),
    ("lectures", "ck_lectures_canonical_url", {"canonical_url": "\u20ac" * 867}),
    ("lectures", "ck_lectures_failure", {"failure": "timeout"}),
    ("lectures", "ck_lectures_failure", {"status": "failed"}),
    ("lectures", "ck_lectures_counts", {"downloaded_bytes": -1}),
    ("lectures", "ck_lectures_counts", {"total_bytes": -1}),
    ("lectures", "ck_lectures_counts", {"duration_seconds": -1}),
    ("documents", "ck_documents_checksum", {"checksum": "A" * 64}),
    ("documents", "ck_documents_checksum", {"checksum": "a" * 63}),
    ("documents", "ck_documents_checksum", {"checksum": "a" * 64 + "\n"}),
    ("documents", "ck_documents_counts", {"size_bytes": -1}),
    ("documents", "ck_documents_counts", {"page_count": -1}),
    ("jobs", "ck_jobs_lease", {"state": "running"}),
    ("jobs", "ck_jobs_lease", {"lease_token": UUID(int=1)}),
    ("jobs", "ck_jobs_counts", {"attempt": -1}),
]


async def test_checks(connection: AsyncConnection) -> None:
    for table, constraint, values in CHECKED:
        await refused(connection, table, constraint, **values)


async def test_the_longest_canonical_url_fits_its_indexes(connection: AsyncConnection) -> None:
    """Text that does not compress: the index would refuse it with an error that is no check's."""
    url = "".join(uuid4().hex for _ in range(82))[:2600]
    lecture_id = await insert_lecture(connection, canonical_url=url)
    await insert(
        connection,
        "lecture_aliases",
        id=uuid4(),
        lecture_id=lecture_id,
        course_id=COURSE,
        canonical_url=url,
    )


async def test_a_deleted_lecture_takes_links_and_aliases_along(connection: AsyncConnection) -> None:
    lecture_id = await insert_lecture(connection)
    user_id = await insert_any(connection, "users")
    alias = {"id": uuid4(), "lecture_id": lecture_id, "course_id": COURSE, "canonical_url": "u"}
    await insert(connection, "lecture_aliases", **alias)
    await connection.execute(
        text("INSERT INTO user_lectures VALUES (:user_id, :lecture_id)"),
        {"user_id": user_id, "lecture_id": lecture_id},
    )
    await connection.execute(text("DELETE FROM lectures WHERE id = :id"), {"id": lecture_id})
    for table in ("user_lectures", "lecture_aliases"):
        assert await connection.scalar(text(f"SELECT count(*) FROM {table}")) == 0


async def test_a_deleted_user_takes_links_and_courses_of_their_own_along(
    connection: AsyncConnection,
) -> None:
    user_id = await insert_any(connection, "users")
    document_id = await insert_document(connection)
    await insert(connection, "courses", code="mine", title="Mine", owner_id=user_id)
    await connection.execute(
        text("INSERT INTO user_documents VALUES (:user_id, :document_id, 'mine.pdf')"),
        {"user_id": user_id, "document_id": document_id},
    )
    await connection.execute(text("DELETE FROM users WHERE id = :id"), {"id": user_id})
    for table in ("user_documents", "courses"):
        assert await connection.scalar(text(f"SELECT count(*) FROM {table}")) == 0
    assert await connection.scalar(text("SELECT count(*) FROM documents")) == 1
