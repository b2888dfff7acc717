"""Where Alembic meets the database.

`app/db/migrations.py` hands over a connection whose transaction it holds and has locked.  The
`alembic` command has none: there, the same function makes one from DATABASE_URL.
"""

import asyncio
import os

from alembic import context
from sqlalchemy import Connection

from app.db.migrations import COMPARISON, locked
from app.errors import ConfigurationError


def run(connection: Connection) -> None:
    context.configure(connection=connection, **COMPARISON)
    context.run_migrations()


def print_sql() -> None:
    context.configure(dialect_name="postgresql", literal_binds=True, **COMPARISON)
    with context.begin_transaction():
        context.run_migrations()


async def connect_and_run() -> None:
    database_url = os.environ.get("DATABASE_URL")
    if not database_url:
        raise ConfigurationError("DATABASE_URL: required by the alembic command")
    async with locked(database_url) as connection:
        await connection.run_sync(run)


given = context.config.attributes.get("connection")
if context.is_offline_mode():
    print_sql()
elif given is not None:
    run(given)
else:
    asyncio.run(connect_and_run())
