"""Bring a database to a revision of `alembic/`, and tell whether the models agree with it.

A run is one transaction under an advisory lock of that transaction, so any number of processes may
start at once, behind a transaction-mode pooler too: one works, the others wait and find it done.
A failed run leaves nothing.  Alembic keeps its state in module globals, so one process migrates one
database at a time.

``python -m app.db.migrations check`` rehearses all migrations on a PostgreSQL of its own.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Enum, inspect, text
from sqlalchemy.dialects.postgresql.base import PGInspector
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import vectors
from app.db.engine import make_engine
from app.db.models import Base
from app.errors import ConfigurationError

SCRIPTS = Path(__file__).resolve().parents[2] / "alembic"
"""Beside the package: in a checkout and in the container image alike."""

COMPARISON: dict[str, Any] = {
    "target_metadata": Base.metadata,
    "compare_type": True,
    "compare_server_default": True,
    # Tables that a server may lack, made beside the migrations.
    "include_name": lambda name, kind, _: kind != "table" or name not in vectors.TABLES,
    "autogenerate_plugins": ["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
}
"""How Alembic compares; for `alembic revision --autogenerate` and for `check`."""

_LOCK = int.from_bytes(b"StudyBud")
_WAIT_FOR_OTHER_RUNS = "120s"
_WAIT_FOR_TABLES = "5s"
"""A migration that waits for a table makes everyone behind it wait as well: rather give up."""


async def upgrade(database_url: str, revision: str = "head") -> None:
    """Bring the database up to the revision, from empty or from any earlier one."""
    await _run(database_url, command.upgrade, revision)


async def downgrade(database_url: str, revision: str = "base") -> None:
    """Take the database down to the revision; ``base`` drops everything but Alembic's own table."""
    await _run(database_url, command.downgrade, revision)


async def check(database_url: str) -> list[str]:
    """Return each difference between the database and the models, in words; empty where none.

    It sees no triggers, no functions and no predicates or expressions: a test compares the whole
    catalogue with a committed snapshot.
    """
    async with locked(database_url) as connection:
        return await connection.run_sync(_drift)


async def revision_drift(database_url: str) -> list[str]:
    """Return in words how the database's revision differs from this version's; empty if not at all.

    It waits for nobody and changes nothing.
    """
    engine = make_engine(database_url, pool_size=1)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(
                lambda each: _revision_drift(MigrationContext.configure(each))
            )
    finally:
        await engine.dispose()


@asynccontextmanager
async def locked(database_url: str) -> AsyncIterator[AsyncConnection]:
    """Open a connection in a transaction that no other run can be in, and commit at the end."""
    engine = make_engine(database_url, pool_size=1, command_timeout_seconds=None)
    try:
        async with engine.begin() as connection:
            await connection.execute(text(f"SET LOCAL lock_timeout = '{_WAIT_FOR_OTHER_RUNS}'"))
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            await connection.execute(text(f"SET LOCAL lock_timeout = '{_WAIT_FOR_TABLES}'"))
            yield connection
    finally:
        await engine.dispose()


async def _run(database_url: str, action: Callable[[Config, str], None], revision: str) -> None:
    config = _config()
    async with locked(database_url) as connection:
        config.attributes["connection"] = connection.sync_connection
        await connection.run_sync(lambda _: action(config, revision))
        if revision == "head":
            await vectors.make(connection)


def _config() -> Config:
    if not (SCRIPTS / "env.py").is_file():
        raise ConfigurationError("The migrations are missing: alembic/ must lie beside app/.")
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _drift(connection: Connection) -> list[str]:
    context = MigrationContext.configure(connection, opts=COMPARISON)
    differences = [_in_words(entry) for entry in compare_metadata(context, Base.metadata)]
    # The labels of enum types, which Alembic leaves out.
    stored = {e["name"]: e["labels"] for e in cast(PGInspector, inspect(connection)).get_enums()}
    columns = (column for table in Base.metadata.tables.values() for column in table.columns)
    wanted = {str(c.type.name): c.type.enums for c in columns if isinstance(c.type, Enum)}
    labels = [
        f"enum {name}: has {stored.get(name)}, models have {labels}"
        for name, labels in wanted.items()
        if stored.get(name) != labels
    ]
    return [*_revision_drift(context), *labels, *differences]


def _revision_drift(context: MigrationContext) -> list[str]:
    newest = ScriptDirectory.from_config(_config()).get_heads()
    current = context.get_current_heads()
    if set(current) == set(newest):
        return []
    return [f"revision: at {', '.join(current) or 'none'}, newest is {', '.join(newest)}"]


def _in_words(entry: Any) -> str:
    """Render one of Alembic's nested difference tuples."""
    if isinstance(entry, list):  # what has changed of one column
        return "; ".join(map(_in_words, entry))
    return " ".join(str(part) for part in entry if part is not None)


async def _rehearse(database_url: str) -> list[str]:
    """Go up from empty, down to nothing and up again; return what drifts either time."""
    await upgrade(database_url)
    problems = await check(database_url)
    await downgrade(database_url)
    await upgrade(database_url)
    return problems or await check(database_url)


def _rehearse_on_own_server() -> list[str]:
    # Only this command, for developers, needs the embedded server; production has none.
    from app.embedded.postgres import EmbeddedPostgres

    with TemporaryDirectory() as directory:
        server = EmbeddedPostgres(Path(directory) / "postgres", durable=False)
        server.start()
        try:
            return asyncio.run(_rehearse(server.url))
        finally:
            server.stop()


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit status: 0, 1 on drift, 2 where it is wrong."""
    if list(arguments) != ["check"]:
        sys.stderr.write("usage: python -m app.db.migrations check\n")
        return 2
    problems = _rehearse_on_own_server()
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
