"""The engine: how this process reaches PostgreSQL, directly or through PgBouncer.

Behind a pooler in transaction mode, two transactions of one client connection may run on two server
connections.  So nothing outlives a transaction here: no session setting, and no named prepared
statement.  Where the server is reached directly, ``prepared_statement_cache_size=100`` in the URL
turns statement caching on; it saves a parse and a plan per query.
"""

import contextlib
import logging
import ssl
from dataclasses import dataclass
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

_log = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS = 5.0
COMMAND_TIMEOUT_SECONDS = 30.0
POOL_TIMEOUT_SECONDS = 10.0

CLOSE_SECONDS = 0.5

IDLE_SECONDS = 5.0

_IDLE_LIMIT = "idle_limit_seconds"
_CACHE_SIZE = "prepared_statement_cache_size"
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_OTHER_SSL_MODES = {"true": "require", "1": "require", "false": "disable", "no-verify": "require"}
"""SQLAlchemy's and node-postgres's spellings."""

_OF_ASYNCPG = frozenset(
    {
        *("host", "port", "user", "password", "passfile", "dbname", "database"),
        *("service", "krbsrvname", "gsslib", "target_session_attrs"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword"),
        *("sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version"),
    }
)
_OF_THE_SERVER = frozenset(
    {"application_name", "lock_timeout", "options", "search_path", "statement_timeout", "timezone"}
)
"""asyncpg sends what it does not know as settings of the server, which refuses unknown ones."""


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
    ``sslrootcert``, ``host=/socket/dir``, several hosts, …); parameters that mean nothing here (a
    pooler's, a hoster's) are passed over, and named in the log.  A connection that a restarted
    server has dropped is replaced at checkout.  Raises `ConfigurationError` for a URL that cannot
    work.
    """
    target = _parse(database_url)
    if target.ignored:
        _log.info("DATABASE_URL: passed over, as of no use here: %s", ", ".join(target.ignored))
    return create_async_engine(
        "postgresql+asyncpg://",
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        pool_pre_ping=True,
        pool_use_lifo=True,
        connect_args={
            "dsn": target.dsn,
            "ssl": target.ssl,
            "connection_class": _Connection,
            "timeout": target.connect_seconds,
            "command_timeout": command_timeout_seconds,
            # Off, each statement is the unnamed one.  A unique name for each would stay behind on
            # whichever server connection the pooler parsed it on.
            "statement_cache_size": target.cache_size,
            _CACHE_SIZE: target.cache_size,
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


@dataclass(frozen=True, slots=True)
class _Target:
    """A database as asyncpg is told of it; ``ignored`` are the names of what it was not told."""

    dsn: str
    ssl: ssl.SSLContext | None
    connect_seconds: float
    cache_size: int
    ignored: tuple[str, ...]


def _parse(database_url: str) -> _Target:
    """Return what the URL says, with the meaning that its parameters have in libpq."""
    parts = urlsplit(database_url)
    options = dict(parse_qsl(parts.query))
    if mode := options.pop("ssl", None):
        options.setdefault("sslmode", mode)
    if mode := options.get("sslmode"):
        options["sslmode"] = _OTHER_SSL_MODES.get(mode, mode)
        if options["sslmode"] not in _SSL_MODES:
            modes = ", ".join(_SSL_MODES)
            raise ConfigurationError(f"DATABASE_URL: sslmode must be one of {modes}")
    context = None
    if options.get("sslrootcert") == "system":
        # As in libpq: the machine's own authorities, which vouch for names alone.
        context = ssl.create_default_context()
        del options["sslrootcert"]
    if name := options.pop("fallback_application_name", None):
        options.setdefault("application_name", name)
    seconds = options.pop("connect_timeout", "")
    cache_size = options.pop(_CACHE_SIZE, "0")
    if not cache_size.isdecimal():
        raise ConfigurationError(f"DATABASE_URL: {_CACHE_SIZE} must be a whole number")
    known = _OF_ASYNCPG | _OF_THE_SERVER
    kept = {name: value for name, value in options.items() if name in known}
    return _Target(
        parts._replace(scheme="postgresql", query=urlencode(kept)).geturl(),
        context,
        # Zero, without limit in libpq, is none here: nothing may wait for ever.
        float(seconds) if seconds.isdecimal() and int(seconds) else CONNECT_TIMEOUT_SECONDS,
        int(cache_size),
        tuple(name for name in options if name not in known),
    )
