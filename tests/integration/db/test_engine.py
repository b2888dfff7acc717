"""The engine: every spelling of a URL, nothing that outlives a transaction, and lost servers."""

from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.db import engine as engine_module
from app.db.engine import make_engine, make_locking_sessions, make_sessions
from app.db.models import User
from app.embedded.postgres import DATABASE, USER, EmbeddedPostgres
from app.errors import ConfigurationError


@pytest.mark.parametrize(
    "form",
    [
        "postgresql://{user}@/{database}?host={directory}",
        "postgresql+asyncpg://{user}@/{database}?host={directory}",
        "postgres://{user}@/{database}?host={directory}",
        "postgresql:///{database}?user={user}&host={quoted}&port=5432",
        "postgresql://{user}@{quoted}/{database}",
        "postgresql://{user}@/{database}?host={directory}&sslmode=disable&application_name=x",
        "postgresql://{user}@/{database}?host={directory}&sslmode=require&channel_binding=require",
        "postgresql+asyncpg://{user}@/{database}?host={directory}&ssl=prefer&connect_timeout=9",
        "postgresql://{user}@/{database}?host={directory}&pgbouncer=true&connection_limit=1",
        "postgresql://{user}@/{database}?host={directory}&prepared_statement_cache_size=20",
        "postgresql://{user}@/{database}?host={directory}&keepalives=1&keepalives_idle=30",
        "postgresql://{user}@/{database}?host={directory}&fallback_application_name=x",
        "postgresql://{user}@/{database}?host={directory}&target_session_attrs=read-write",
        "postgresql://{user}@/{database}?host={directory}&load_balance_hosts=random",
        "postgresql://{user}@/{database}?host={directory}&supa=base-pooler.x&pool_size=5&a.b=c",
        "postgresql://{user}@/{database}?host={directory}&sslmode=no-verify&uselibpqcompat=true",
    ],
)
async def test_takes_urls_as_people_have_them(postgres_server: EmbeddedPostgres, form: str) -> None:
    directory = str(postgres_server.socket_directory)
    url = form.format(
        user=USER, database=DATABASE, directory=directory, quoted=quote(directory, safe="")
    )
    engine = make_engine(url, pool_size=1)
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT current_database()")) == DATABASE
    await engine.dispose()


@pytest.mark.parametrize("query", ["sslmode=on", "ssl=maybe", "prepared_statement_cache_size=-1"])
def test_refuses_what_cannot_work(query: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^DATABASE_URL: ") as error:
        make_engine(f"postgresql://user:secret@db.test/name?{query}")
    assert "secret" not in error.value.message


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ("sslmode=verify-full", "verify-full"),
        ("ssl=require", "require"),
        ("ssl=true", "require"),
        ("ssl=false", "disable"),
        ("sslmode=require&ssl=false", "require"),
        ("sslmode=no-verify", "require"),
    ],
)
def test_tls_is_asked_for_in_asyncpgs_words(given: str, mode: str) -> None:
    target = engine_module._parse(f"postgresql://u@db.test/name?{given}")
    assert target.dsn == f"postgresql://u@db.test/name?sslmode={mode}"


def test_the_machines_own_authorities_may_vouch_for_the_server() -> None:
    target = engine_module._parse("postgresql://u@db.test/name?sslmode=require&sslrootcert=system")
    assert target.ssl is not None
    assert target.ssl.check_hostname
    assert "sslrootcert" not in target.dsn


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("", 5), ("connect_timeout=15", 15), ("connect_timeout=0", 5), ("connect_timeout=-1", 5)],
)
def test_waits_for_a_server_as_long_as_the_url_says(given: str, seconds: float) -> None:
    assert engine_module._parse(f"postgresql://u@db.test/name?{given}").connect_seconds == seconds


async def test_what_the_url_asks_of_the_server_arrives(database_url: str) -> None:
    wishes = "fallback_application_name=x&options=-c%20lock_timeout%3D7s&search_path=public"
    engine = make_engine(f"{database_url}&{wishes}&statement_timeout=9s", pool_size=1)
    async with engine.connect() as connection:
        for name, value in (
            ("application_name", "x"),
            ("lock_timeout", "7s"),
            ("search_path", "public"),
            ("statement_timeout", "9s"),
        ):
            assert await connection.scalar(text(f"SHOW {name}")) == value
    await engine.dispose()


def test_names_what_it_passes_over_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    make_engine("postgresql://user:secret@db.test/name?pgbouncer=true&supa=hush&sslmode=require")
    make_engine("postgresql://user:secret@db.test/name?application_name=x&connect_timeout=1")
    assert [record.getMessage() for record in caplog.records] == [
        "DATABASE_URL: passed over, as of no use here: pgbouncer, supa"
    ]


def test_keeps_no_password_where_it_could_be_shown() -> None:
    assert "secret" not in repr(make_engine("postgresql://user:secret@db.test/name"))


async def _prepared_statements(url: str) -> int:
    """Run statements of every sort and count those that stay behind on the server."""
    engine = make_engine(url, pool_size=1)
    insert = text("INSERT INTO users (issuer, subject) VALUES (:issuer, :subject)")
    for number in range(3):
        async with engine.begin() as connection:
            rows = [{"issuer": f"i{number}", "subject": f"s{place}"} for place in range(2)]
            await connection.execute(insert, rows)
            await connection.execute(text("SELECT status, failure FROM lectures"))
    async with engine.connect() as connection:
        found = await connection.scalar(text("SELECT count(*) FROM pg_prepared_statements"))
    await engine.dispose()
    return int(found or 0)


async def test_leaves_no_prepared_statement_behind(database_url: str) -> None:
    assert await _prepared_statements(database_url) == 0


async def test_keeps_prepared_statements_where_asked_to(database_url: str) -> None:
    assert await _prepared_statements(f"{database_url}&prepared_statement_cache_size=50") > 0


async def test_a_lost_connection_is_replaced_at_checkout(
    engine: AsyncEngine, postgres_server: EmbeddedPostgres
) -> None:
    async with engine.connect() as connection:
        pid = await connection.scalar(text("SELECT pg_backend_pid()"))
    other = make_engine(postgres_server.url, pool_size=1)
    async with other.connect() as connection:
        terminated = text("SELECT pg_terminate_backend(:pid, 5000)")
        assert await connection.scalar(terminated, {"pid": pid})
    await other.dispose()
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT pg_backend_pid()")) != pid


async def test_survives_a_restart_of_the_server(server_directory: Path) -> None:
    folder = server_directory / "restarted"
    folder.mkdir()
    server = EmbeddedPostgres(folder / "postgres", durable=False)
    server.start()
    engine = make_engine(server.url, pool_size=2)
    async with engine.connect() as one, engine.connect() as two:
        assert await one.scalar(text("SELECT 1")) == await two.scalar(text("SELECT 1"))
    server.stop()
    server.start()
    async with engine.connect() as one, engine.connect() as two:
        assert await one.scalar(text("SELECT 1")) == await two.scalar(text("SELECT 1"))
    await engine.dispose()
    server.stop()


async def test_a_statement_that_hangs_is_given_up(database_url: str) -> None:
    engine = make_engine(database_url, pool_size=1, command_timeout_seconds=0.05)
    async with engine.connect() as connection:
        with pytest.raises(TimeoutError):
            await connection.execute(text("SELECT pg_sleep(60)"))
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()


async def test_opens_no_more_connections_than_the_pool_has(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "POOL_TIMEOUT_SECONDS", 0.05)
    engine = make_engine(database_url, pool_size=1)
    async with engine.connect() as held:
        with pytest.raises(PoolTimeoutError):
            await engine.connect()
        assert await held.scalar(text("SELECT 1")) == 1
    await engine.dispose()


async def test_rows_stay_readable_after_the_commit(
    sessions: async_sessionmaker[AsyncSession],
) -> None:
    async with sessions.begin() as session:
        user = User(issuer="https://i.test", subject="s")
        session.add(user)
        assert await session.scalar(text("SELECT count(*) FROM users")) == 0
        await session.flush()
    assert user.subject == "s"
    assert user.created_at.tzinfo is not None


async def test_a_process_that_stops_in_a_transaction_holds_no_lock(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "IDLE_SECONDS", 0.2)
    stopped, others = make_locking_sessions(engine), make_sessions(engine)
    async with others.begin() as session:
        session.add(User(id=uuid4(), issuer="issuer", subject="ada"))
    async with stopped() as session:
        ada = (await session.scalars(select(User).with_for_update())).one()
        async with others.begin() as other:
            # Waits for the lock, and gets it without a word of its holder.
            await other.execute(select(User).with_for_update())
        ada.subject = "eve"
        with pytest.raises(DBAPIError):
            await session.commit()
    async with others() as session:
        assert await session.scalar(select(User.subject)) == "ada"
        assert await session.scalar(text("SHOW idle_in_transaction_session_timeout")) == "0"
