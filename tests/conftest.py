"""Real servers for every test: one PostgreSQL and one Redis per pytest process, clean per test."""

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import hypothesis
import pytest
import redis.asyncio
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.embedded.postgres import EmbeddedPostgres
from app.embedded.redis import EmbeddedRedis
from app.settings import Settings, load_settings
from tests.support.serving import ISSUER_KEY, issuer_directory

pytest_plugins = ["tests.support.panopto", "tests.support.s3"]

# How long an example takes tells of the machine: a busy one is no failure.
hypothesis.settings.register_profile(
    "any_machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any_machine")

_ENOUGH_MEMORY_BYTES = 4 * 1024**3
_OURS = tuple(name.upper() for name in Settings.model_fields)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _OURS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _no_log_of_an_earlier_test() -> Iterator[None]:
    """A service sends all lines of the process to the stderr of its test, which then is closed."""
    yield
    root = logging.getLogger()
    root.handlers[:] = [each for each in root.handlers if type(each) is not logging.StreamHandler]


@pytest.fixture(scope="session")
def server_directory() -> Iterator[Path]:
    """A directory with a path short enough for sockets, in memory where there is enough of it."""
    directory = Path(tempfile.mkdtemp(prefix="sb-", dir=_memory_file_system()))
    yield directory
    shutil.rmtree(directory)


def _memory_file_system() -> str | None:
    """Return where files cost no disk: a database is made there in a tenth of the time."""
    memory = Path("/dev/shm")
    is_usable = memory.is_dir() and os.access(memory, os.W_OK)
    if is_usable and shutil.disk_usage(memory).free > _ENOUGH_MEMORY_BYTES:
        return str(memory)
    return None


@pytest.fixture(scope="session")
def postgres_server(server_directory: Path) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of this pytest process, quick and careless about power loss."""
    server = EmbeddedPostgres(server_directory / "postgres", durable=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_server(server_directory: Path) -> Iterator[EmbeddedRedis]:
    """A Redis of this pytest process."""
    server = EmbeddedRedis(server_directory / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def migrated_template(postgres_server: EmbeddedPostgres) -> str:
    """The name of a database at Alembic's head, to make others from; never connect to it."""
    from app.db.migrations import upgrade

    name = "template_migrated"

    async def make() -> None:
        await _administer(postgres_server, f"CREATE DATABASE {name}")
        await upgrade(_url_of(postgres_server, name))

    asyncio.run(make())
    return name


@pytest.fixture
async def database_url(
    postgres_server: EmbeddedPostgres, migrated_template: str
) -> AsyncIterator[str]:
    """A fresh, migrated database of this test."""
    name = f"test_{uuid4().hex}"
    # Copying the template's files costs half of what writing them to the log does.
    await _administer(
        postgres_server,
        f"CREATE DATABASE {name} TEMPLATE {migrated_template} STRATEGY file_copy",
    )
    yield _url_of(postgres_server, name)
    await _administer(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def empty_database_url(postgres_server: EmbeddedPostgres) -> AsyncIterator[str]:
    """A fresh database of this test with nothing in it, for tests of the migrations."""
    name = f"empty_{uuid4().hex}"
    await _administer(postgres_server, f"CREATE DATABASE {name}")
    yield _url_of(postgres_server, name)
    await _administer(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def redis_url(redis_server: EmbeddedRedis) -> str:
    """A Redis with nothing in it."""
    client = redis.asyncio.Redis.from_url(redis_server.url)
    await client.flushall()
    await client.aclose()
    return redis_server.url


@pytest.fixture
def data_directory(tmp_path: Path) -> Path:
    """A DATA_DIR with nothing in it but the issuer's key, which is the same for all tests."""
    directory = tmp_path / "data"
    directory.mkdir(mode=0o700)
    shutil.copy(issuer_directory() / ISSUER_KEY, directory)
    return directory


@pytest.fixture
def settings(data_directory: Path, database_url: str, redis_url: str) -> Settings:
    """Development settings on this test's own servers and directory."""
    return load_settings(
        data_dir=data_directory,
        database_url=database_url,
        redis_url=redis_url,
        host="127.0.0.1",
        port=0,
    )


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine on this test's database."""
    from app.db.engine import make_engine

    engine = make_engine(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
def sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Sessions on this test's database."""
    from app.db.engine import make_sessions

    return make_sessions(engine)


def _url_of(server: EmbeddedPostgres, database: str) -> str:
    return make_url(server.url).set(database=database).render_as_string(hide_password=False)


async def _administer(server: EmbeddedPostgres, statement: str) -> None:
    connection = await asyncpg.connect(
        host=str(server.socket_directory), user="studybuddy", database="postgres"
    )
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
