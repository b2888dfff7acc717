"""What one user may use: accepted requests in a window, and bytes in storage.

Requests are counted in Redis, which may forget them: where it is down every request is let through,
with a line in the log.  Bytes are summed up from the rows, so they are always right.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeVar
from uuid import UUID

import structlog
from limits import RateLimitItem, parse
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError
from sqlalchemy import Select, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.models import Document, Lecture, User, UserDocument, UserLecture
from app.domain import FieldErrorCode
from app.errors import InvalidInput, RateLimited
from app.settings import Settings

_KEY_PREFIX = "studybuddy:quota"
_PATIENCE_SECONDS = 1.0

_log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")


class Quota(StrEnum):
    """What is counted, each by itself."""

    DOWNLOADS = "downloads"
    UPLOADS = "uploads"
    TRANSCRIPTIONS = "transcriptions"
    PREVIEWS = "previews"


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of a quota is left, and in how many seconds a request of the window drops out."""

    limit: int
    window_seconds: int
    remaining: int
    reset_seconds: int
    refused: bool = False


class RequestCounter:
    """Counts the accepted requests of every user, in windows that move with the time."""

    def __init__(self, redis_url: str, rates: Mapping[Quota, str | None]) -> None:
        self._items = {quota: parse(rate) for quota, rate in rates.items() if rate}
        self._pool = ConnectionPool.from_url(
            redis_url,
            socket_connect_timeout=_PATIENCE_SECONDS,
            socket_timeout=_PATIENCE_SECONDS,
        )
        # The pool says where Redis is; the storage takes its kind from the address.
        storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix=_KEY_PREFIX,
            connection_pool=self._pool,  # type: ignore[arg-type]
        )
        self._limiter = MovingWindowRateLimiter(storage)

    @classmethod
    def from_settings(cls, settings: Settings) -> "RequestCounter":
        """Count for the RATE_LIMIT settings; REDIS_URL must be known."""
        rates = {
            Quota.DOWNLOADS: settings.rate_limit_downloads,
            Quota.UPLOADS: settings.rate_limit_uploads,
            Quota.TRANSCRIPTIONS: settings.rate_limit_transcriptions,
            Quota.PREVIEWS: settings.rate_limit_previews,
        }
        return cls(settings.redis_url or "", rates)

    async def look(self, quota: Quota, user_id: UUID) -> Usage | None:
        """Return the user's usage, or None where there is no limit or Redis is down."""
        item = self._items.get(quota)
        return None if item is None else await _or_none(self._usage(item, quota, user_id))

    async def count(self, quota: Quota, user_id: UUID) -> Usage | None:
        """Count one request, unless it exceeds the quota: then ``refused`` is true."""
        item = self._items.get(quota)
        return None if item is None else await _or_none(self._counted(item, quota, user_id))

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.disconnect()

    async def _usage(self, item: RateLimitItem, quota: Quota, user_id: UUID) -> Usage:
        stats = await self._limiter.get_window_stats(item, quota, str(user_id))
        reset_seconds = max(1, math.ceil(stats.reset_time - time.time()))
        remaining = max(0, stats.remaining)
        return Usage(item.amount, item.get_expiry(), remaining, reset_seconds, remaining == 0)

    async def _counted(self, item: RateLimitItem, quota: Quota, user_id: UUID) -> Usage:
        accepted = await self._limiter.hit(item, quota, str(user_id))
        return replace(await self._usage(item, quota, user_id), refused=not accepted)


class Allowance:
    """What one user may use in one operation; ``usages`` is what the answer tells of it."""

    def __init__(self, counter: RequestCounter, user_id: UUID, max_bytes: int | None) -> None:
        self._counter = counter
        self._user_id = user_id
        self.max_bytes = max_bytes
        self.usages: dict[Quota, Usage] = {}

    async def require(self, quota: Quota) -> None:
        """Raise `RateLimited` where nothing is left; nothing is counted yet."""
        self._note(quota, await self._counter.look(quota, self._user_id))

    async def spend(self, quota: Quota) -> None:
        """Count one request, or raise `RateLimited`."""
        self._note(quota, await self._counter.count(quota, self._user_id))

    async def require_room(
        self, session: AsyncSession, chunks: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """Return the chunks as a stream that raises `InvalidInput` where they cannot fit.

        What is larger than the room left fits only where the user has these very bytes already.
        """
        if self.max_bytes is None:
            return chunks
        stored = await stored_bytes(session, self._user_id)
        documents = _own_documents(self._user_id, func.max(Document.size_bytes))
        uploads = _own_uploads(self._user_id, func.max(Lecture.upload_bytes))
        both = func.greatest(documents.scalar_subquery(), uploads.scalar_subquery())
        largest = await session.scalar(select(both))
        return _limited(chunks, max(self.max_bytes - stored, largest or 0), self.max_bytes)

    async def require_within(self, session: AsyncSession) -> None:
        """Raise `InvalidInput` where the user's links, those of this transaction too, exceed it.

        Takes the lock of the user's row, so that uploads at once are summed up one by one.
        """
        if self.max_bytes is None:
            return
        user = select(User.id).where(User.id == self._user_id).with_for_update(key_share=True)
        await session.execute(user)
        if await stored_bytes(session, self._user_id) > self.max_bytes:
            raise _no_room(self.max_bytes)

    def _note(self, quota: Quota, usage: Usage | None) -> None:
        if usage is None:
            return
        self.usages[quota] = usage
        if usage.refused:
            raise RateLimited(usage.reset_seconds)


async def stored_bytes(session: AsyncSession, user_id: UUID) -> int:
    """Return the sizes of all documents and uploads that the user is linked to, summed up.

    What several users have counts for each.  The audio of links does not count: nobody sent it.
    """
    documents = _own_documents(user_id, func.coalesce(func.sum(Document.size_bytes), 0))
    uploads = _own_uploads(user_id, func.coalesce(func.sum(Lecture.upload_bytes), 0))
    both = select(documents.scalar_subquery() + uploads.scalar_subquery())
    return int(await session.scalar(both) or 0)


def _own_documents(user_id: UUID, *columns: Any) -> Select[*tuple[Any, ...]]:
    query = select(*columns).select_from(UserDocument).join(Document)
    return query.where(UserDocument.user_id == user_id)


def _own_uploads(user_id: UUID, *columns: Any) -> Select[*tuple[Any, ...]]:
    """Select from the user's uploads: those of which something is stored."""
    is_stored = or_(Lecture.upload_storage_key.is_not(None), Lecture.audio_storage_key.is_not(None))
    query = select(*columns).select_from(UserLecture).join(Lecture)
    return query.where(UserLecture.user_id == user_id, is_stored)


async def _limited(
    chunks: AsyncIterator[bytes], room_bytes: int, max_bytes: int
) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        room_bytes -= len(chunk)
        if room_bytes < 0:
            raise _no_room(max_bytes)
        yield chunk


def _no_room(max_bytes: int) -> InvalidInput:
    message = (
        f"Your documents and uploads may take {max_bytes} bytes together, and this file exceeds "
        "that."
    )
    return InvalidInput.at("file", message, FieldErrorCode.QUOTA)


async def _or_none(asking: Awaitable[Answer]) -> Answer | None:
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            return await asking
    except (RedisError, OSError) as error:
        _log.warning("quota.unchecked", reason=type(error).__name__)
        return None
