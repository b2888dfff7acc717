"""The migrations: up, down, concurrently, and against the models and a committed snapshot.

Where a migration changes the catalogue on purpose, ``UPDATE_SNAPSHOT=1`` writes the snapshot anew;
its difference is what the reviewer reads.
"""

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import migrations, vectors
from app.db.engine import make_engine
from app.db.models import Base
from app.db.vectors import Extensions
from app.errors import ConfigurationError
from app.ingest.model import SourceIdentity
from app.services.lectures.unconfirmed import unconfirmed

SNAPSHOT = Path(__file__).with_name("catalogue.snapshot")
REVISIONS = [
    script.revision for script in ScriptDirectory(str(migrations.SCRIPTS)).walk_revisions()
][::-1]

# Everything in the schema, but for Alembic's own table, and for the NOT NULL constraints that
# PostgreSQL 18 lists a second time beside the columns.  Columns go by name: a later migration can
# only append them, wherever the model has them.
CATALOGUE = """
WITH relation AS (
    SELECT * FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'alembic_version%'
)
SELECT line FROM (
    SELECT 1 AS part, typname::text AS owner, 0 AS kind,
           format('enum %s: %s', typname, string_agg(enumlabel, ', ' ORDER BY enumsortorder))
               AS line
    FROM pg_type JOIN pg_enum ON enumtypid = pg_type.oid GROUP BY typname
    UNION ALL
    SELECT 2, relname::text, 0,
           concat_ws(' ', CASE relkind WHEN 'r' THEN 'table' ELSE relkind::text END, relname,
                     reloptions::text)
    FROM relation WHERE relkind NOT IN ('i', 'I')
    UNION ALL
    SELECT 2, relname::text, 1,
           concat_ws(' ', '    column', attname, format_type(atttypid, atttypmod),
                     CASE WHEN attnotnull THEN 'not null' END,
                     'default ' || pg_get_expr(adbin, adrelid))
    FROM relation JOIN pg_attribute ON attrelid = relation.oid
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE relkind NOT IN ('i', 'I') AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT 2, relname::text, 2,
           format('    constraint %s %s', conname, pg_get_constraintdef(pg_constraint.oid))
    FROM pg_constraint JOIN relation ON conrelid = relation.oid WHERE contype <> 'n'
    UNION ALL
    SELECT 2, relname::text, 3, '    ' || pg_get_indexdef(indexrelid)
    FROM pg_index JOIN relation ON indrelid = relation.oid
    UNION ALL
    SELECT 2, relname::text, 4, '    ' || pg_get_triggerdef(pg_trigger.oid)
    FROM pg_trigger JOIN relation ON tgrelid = relation.oid WHERE NOT tgisinternal
    UNION ALL
    SELECT 3, proname::text, 0, pg_get_functiondef(oid)
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND NOT EXISTS (
        SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')
) AS catalogue
ORDER BY part, owner COLLATE "C", kind, line COLLATE "C"
"""
CHANGES_ROWS_ALONE = {"0010"}
ONLY_IN_MIGRATIONS = ("    CREATE TRIGGER", "CREATE OR REPLACE FUNCTION")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[AsyncConnection]:
    engine = make_engine(url, pool_size=1)
    try:
        async with engine.begin() as connection:
            yield connection
    finally:
        await engine.dispose()


async def catalogue(url: str) -> list[str]:
    async with connected(url) as connection:
        return list((await connection.execute(text(CATALOGUE))).scalars())


async def test_catalogue_is_the_committed_snapshot(empty_database_url: str) -> None:
    await migrations.upgrade(empty_database_url)
    found = "\n".join(await catalogue(empty_database_url)).rstrip("\n") + "\n"
    if os.environ.get("UPDATE_SNAPSHOT") == "1":
        SNAPSHOT.write_text(found)
    assert found.splitlines() == SNAPSHOT.read_text().splitlines()


async def test_models_agree_with_migrations(empty_database_url: str) -> None:
    await migrations.upgrade(empty_database_url)
    assert await migrations.check(empty_database_url) == []


async def test_models_alone_make_the_same_tables(empty_database_url: str) -> None:
    """Partial predicates, expressions and checks included, which Alembic does not compare."""
    await migrations.upgrade(empty_database_url)
    migrated = await catalogue(empty_database_url)
    await migrations.downgrade(empty_database_url)
    async with connected(empty_database_url) as connection:
        await connection.run_sync(Base.metadata.create_all)
        await vectors.make(connection)
    made = await catalogue(empty_database_url)
    assert made == [line for line in migrated if not line.startswith(ONLY_IN_MIGRATIONS)]


async def test_vectors_come_once_the_server_lets_them(empty_database_url: str) -> None:
    """pgvector is no trusted extension: a role that owns the database alone cannot create it."""
    url = make_url(empty_database_url)
    owner = f"owner_{uuid4().hex}"
    async with connected(empty_database_url) as connection:
        await connection.execute(text(f"CREATE ROLE {owner} LOGIN"))
        await connection.execute(text(f"ALTER DATABASE {url.database} OWNER TO {owner}"))
        await connection.execute(text(f"ALTER SCHEMA public OWNER TO {owner}"))
    theirs = url.set(username=owner).render_as_string(hide_password=False)
    await migrations.upgrade(theirs)
    async with connected(theirs) as connection:
        assert await vectors.extensions(connection) == Extensions(vectors=False, likeness=True)
        assert await migrations.check(theirs) == []
    async with connected(empty_database_url) as connection:
        await connection.execute(text("CREATE EXTENSION vector"))
    await migrations.upgrade(theirs)
    async with connected(theirs) as connection:
        assert await vectors.extensions(connection) == Extensions(vectors=True, likeness=True)


async def test_every_migration_goes_down_to_where_it_came_from(empty_database_url: str) -> None:
    before = await catalogue(empty_database_url)
    assert before == []
    for previous, revision in zip(["base", *REVISIONS], REVISIONS, strict=False):
        await migrations.upgrade(empty_database_url, revision)
        after = await catalogue(empty_database_url)
        await migrations.downgrade(empty_database_url, previous)
        assert await catalogue(empty_database_url) == before
        await migrations.upgrade(empty_database_url, revision)
        assert await catalogue(empty_database_url) == after
        assert (after == before) is (revision in CHANGES_ROWS_ALONE)
        before = after


async def test_lectures_with_a_stream_of_before_are_found_by_it(empty_database_url: str) -> None:
    guid, stream = str(uuid4()), "https://media.example/ä.mp4"
    await migrations.upgrade(empty_database_url, "0009")
    add = text(
        "INSERT INTO lectures (course_id, panopto_session_id, panopto_url, canonical_url,"
        " stream_url) VALUES (gen_random_uuid(), :session_id, :url, :url, :stream)"
    )
    url = "https://site.example/v"
    known = [(guid, stream), (None, stream), (str(uuid4()), None)]
    async with connected(empty_database_url) as connection:
        for session_id, stream_url in known:
            values = {"session_id": session_id, "url": url, "stream": stream_url}
            await connection.execute(add, values)
    await migrations.upgrade(empty_database_url)
    names = "SELECT panopto_session_id, canonical_url FROM lectures"
    async with connected(empty_database_url) as connection:
        found = {tuple(row) for row in await connection.execute(text(names))}
    brought = [
        unconfirmed(SourceIdentity(url, session_id, "site.example"), stream).canonical_url
        for session_id in (guid, None)
    ]
    assert found == {(None, brought[0]), (None, brought[1]), (known[2][0], url)}


async def test_down_from_head_leaves_nothing_and_up_again_works(empty_database_url: str) -> None:
    await migrations.upgrade(empty_database_url)
    first = await catalogue(empty_database_url)
    await migrations.downgrade(empty_database_url)
    assert await catalogue(empty_database_url) == []
    await migrations.upgrade(empty_database_url)
    assert await catalogue(empty_database_url) == first


async def test_upgrade_at_head_changes_nothing(database_url: str) -> None:
    before = await catalogue(database_url)
    await migrations.upgrade(database_url)
    assert await catalogue(database_url) == before


async def test_concurrent_upgrades_all_succeed(empty_database_url: str) -> None:
    await asyncio.gather(*(migrations.upgrade(empty_database_url) for _ in range(4)))
    assert await migrations.check(empty_database_url) == []


async def test_upgrade_waits_for_another_processes_run(empty_database_url: str) -> None:
    async with migrations.locked(empty_database_url):
        waiting = asyncio.create_task(migrations.upgrade(empty_database_url))
        done, _ = await asyncio.wait({waiting}, timeout=0.2)
        assert not done
        assert await catalogue(empty_database_url) == []
    await waiting
    assert await migrations.check(empty_database_url) == []


async def test_a_run_that_fails_leaves_nothing(empty_database_url: str) -> None:
    async with connected(empty_database_url) as connection:
        await connection.execute(text("CREATE TABLE jobs (id int)"))  # in the way of the second
    before = await catalogue(empty_database_url)
    with pytest.raises(ProgrammingError):
        await migrations.upgrade(empty_database_url)
    assert await catalogue(empty_database_url) == before


async def test_gives_up_where_a_table_is_in_use(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "_WAIT_FOR_TABLES", "50ms")
    before = await catalogue(database_url)
    async with connected(database_url) as connection:
        await connection.execute(text("SELECT count(*) FROM lectures"))
        with pytest.raises(DBAPIError) as refused:
            await migrations.downgrade(database_url)
        assert refused.value.orig is not None
        assert refused.value.orig.sqlstate == "55P03"  # lock_not_available
    assert await catalogue(database_url) == before


async def test_loggers_of_the_application_stay_on(empty_database_url: str) -> None:
    logger, root = logging.getLogger("app.some_module"), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    await migrations.upgrade(empty_database_url)
    assert not logger.disabled
    assert (list(root.handlers), root.level) == (handlers, level)


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("DROP INDEX idx_documents_checksum", "idx_documents_checksum"),
        ("ALTER TABLE jobs DROP COLUMN last_error", "last_error"),
        ("ALTER TABLE users ADD COLUMN email text", "email"),
        ("ALTER TABLE lectures ALTER COLUMN attempt DROP DEFAULT", "attempt"),
        ("ALTER TABLE lectures ALTER COLUMN revision TYPE bigint", "revision"),
        ("ALTER TABLE documents ALTER COLUMN filename DROP NOT NULL", "filename"),
        ("ALTER TABLE documents DROP CONSTRAINT ck_documents_checksum", "ck_documents_checksum"),
        ("ALTER TYPE job_state ADD VALUE 'lost'", "job_state"),
        ("DELETE FROM alembic_version", "revision"),
    ],
)
async def test_drift_is_named(database_url: str, statement: str, word: str) -> None:
    async with connected(database_url) as connection:
        await connection.execute(text(statement))
    problems = await migrations.check(database_url)
    assert len(problems) == 1
    assert word in problems[0]


async def test_missing_scripts_are_named_and_nothing_happens(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "SCRIPTS", tmp_path)
    with pytest.raises(ConfigurationError, match="alembic/"):
        await migrations.upgrade(empty_database_url)
    assert await catalogue(empty_database_url) == []


def test_command_rehearses_on_a_server_of_its_own() -> None:
    """From the root of the checkout, where a folder is named like the library."""
    command = [sys.executable, "-m", "app.db.migrations"]
    root = migrations.SCRIPTS.parent
    right = subprocess.run([*command, "check"], cwd=root, capture_output=True, text=True)
    assert (right.returncode, right.stdout, right.stderr) == (0, "", "")
    wrong = subprocess.run([*command, "chekc"], cwd=root, capture_output=True, text=True)
    assert wrong.returncode == 2


async def test_command_fails_on_drift(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def drifting(_url: str) -> list[str]:
        return ["add_index x"]

    monkeypatch.setattr(migrations, "check", drifting)
    problems = await migrations._rehearse(empty_database_url)
    assert problems == ["add_index x"]
    monkeypatch.setattr(migrations, "_rehearse_on_own_server", lambda: problems)
    assert migrations.main(["check"]) == 1
    assert capsys.readouterr().err == "add_index x\n"
