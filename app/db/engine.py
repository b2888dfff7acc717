"""The engine: how this process reaches PostgreSQL, directly or through PgBouncer.

Behind a pooler in transaction mode, two transactions of one client connection may run on two server
connections.  So nothing outlives a transaction here: no session setting, and no named prepared
statement.  Where the server is reached directly, ``prepared_statement_cache_size=100`` in the URL
turns statement caching on; it saves a parse and a plan per query.
"""

import contextlib
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg
from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from app.errors import ConfigurationError

CONNECT_TIMEOUT_SECONDS = 5.0
COMMAND_TIMEOUT_SECONDS = 30.0
POOL_TIMEOUT_SECONDS = 10.0

CLOSE_SECONDS = 0.5

IDLE_SECONDS = 5.0

_IDLE_LIMIT = "idle_limit_seconds"
_CACHE_SIZE = "prepared_statement_cache_size"
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_NOT_FOR_ASYNCPG = frozenset(
    {"channel_binding", "connect_timeout", "connection_limit", "gssencmode", "pgbouncer", "schema"}
)
"""What hosting consoles add for libpq or Prisma; asyncpg would send these as server settings."""


class _Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A connection that is closed in a moment, although its server hangs."""

    __slots__ = ()

    async def close(self, *, timeout: float | None = None) -> None:
        """Say goodbye for at most `CLOSE_SECONDS`; without an answer the line is just dropped."""
        with contextlib.suppress(TimeoutError):
            await super().close(timeout=min(timeout or CLOSE_SECONDS, CLOSE_SECONDS))


def make_engine(
    database_url: str,
    *,
    pool_size: int = 10,
    command_timeout_seconds: float | None = COMMAND_TIMEOUT_SECONDS,
) -> AsyncEngine:
    """Return an engine with at most ``pool_size`` connections; it connects at first use.

    Takes ``postgresql://`` and ``postgresql+asyncpg://`` with what libpq takes (``sslmode``,
    ``sslrootcert``, ``host=/socket/dir``, several hosts, …).  A connection that a restarted server
    has dropped is replaced at checkout.  Raises `ConfigurationError` for a URL that cannot work.
    """
    dsn, cache_size = _dsn(database_url)
    return create_async_engine(
        "postgresql+asyncpg://",
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        pool_pre_ping=True,
        pool_use_lifo=True,
        connect_args={
            "dsn": dsn,
            "connection_class": _Connection,
            "timeout": CONNECT_TIMEOUT_SECONDS,
            "command_timeout": command_timeout_seconds,
            # Off, each statement is the unnamed one.  A unique name for each would stay behind on
            # whichever server connection the pooler parsed it on.
            "statement_cache_size": cache_size,
            _CACHE_SIZE: cache_size,
        },
    )


def make_sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Return a factory of sessions that flush when told and whose rows stay readable after it."""
    return async_sessionmaker(engine, expire_on_commit=False, autoflush=False)


def make_locking_sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Return sessions as `make_sessions` does, for transactions that lock rows.

    The server ends one of them, locks and all, that has sat idle for `IDLE_SECONDS`: its process
    has been stopped in the middle of it.
    """
    limited = engine.execution_options(**{_IDLE_LIMIT: IDLE_SECONDS})
    event.listen(limited.sync_engine, "begin", _limit_idle_time)
    return make_sessions(limited)


def _limit_idle_time(connection: Connection) -> None:
    """Set the limit for the transaction and not the session: there may be a pooler in between."""
    options = connection.get_execution_options()
    if _IDLE_LIMIT in options and options.get("isolation_level") != "AUTOCOMMIT":
        milliseconds = round(options[_IDLE_LIMIT] * 1000)
        connection.exec_driver_sql(
            f"SET LOCAL idle_in_transaction_session_timeout = {milliseconds}"
        )


def _dsn(database_url: str) -> tuple[str, int]:
    """Return the URL as asyncpg's own parser takes it, and the statement cache size asked for."""
    parts = urlsplit(database_url)
    options = dict(parse_qsl(parts.query))
    if mode := options.pop("ssl", None):  # SQLAlchemy's spelling
        options.setdefault("sslmode", {"true": "require", "false": "disable"}.get(mode, mode))
    if options.get("sslmode", "prefer") not in _SSL_MODES:
        raise ConfigurationError(f"DATABASE_URL: sslmode must be one of {', '.join(_SSL_MODES)}")
    cache_size = options.pop(_CACHE_SIZE, "0")
    if not cache_size.isdecimal():
        raise ConfigurationError(f"DATABASE_URL: {_CACHE_SIZE} must be a whole number")
    kept = {name: value for name, value in options.items() if name not in _NOT_FOR_ASYNCPG}
    return parts._replace(scheme="postgresql", query=urlencode(kept)).geturl(), int(cache_size)
