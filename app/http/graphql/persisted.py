"""Documents by their hash: automatic persisted queries, and lists of what may run.

Clients send ``{"persistedQuery": {"version": 1, "sha256Hash": …}}`` as ``extensions`` in place of a
document, and the document with it once they are told that it is not known
(https://www.apollographql.com/docs/apollo-server/performance/apq).
"""

import asyncio
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import orjson
import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError

from app.errors import BadUserInput, ConfigurationError, DomainError
from app.settings import Settings

_PATIENCE_SECONDS = 1.0
_CONNECTIONS = 4
_PREFIX = "studybuddy:document:"
_INDEX = "studybuddy:documents"
_LIFETIME_SECONDS = 7 * 24 * 3600
_MAX_REMEMBERED = 2000
_MAX_REMEMBERED_BYTES = 16 * 1024

_log = structlog.get_logger(__name__)


class PersistedQueryNotFound(DomainError):
    """No document has this hash; the message is the one that clients look for."""

    code = "PERSISTED_QUERY_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("PersistedQueryNotFound")


class PersistedDocuments:
    """Finds the document that a request means.

    ``known`` are the deployment's own, by any id; with ``only_known`` nothing else runs.  Others
    are remembered in Redis: the 2,000 used last, of up to 16 KiB, each for a week after that use.
    Without Redis their hashes are unknown, and clients send the documents.
    """

    def __init__(self, redis_url: str, known: Mapping[str, str], *, only_known: bool) -> None:
        timeouts: dict[str, Any] = {"socket_connect_timeout": _PATIENCE_SECONDS}
        pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
            redis_url,
            max_connections=_CONNECTIONS,
            timeout=_PATIENCE_SECONDS,
            decode_responses=True,
            **timeouts,
        )
        self._redis: Redis = Redis.from_pool(pool)
        self._known = known
        self._texts = frozenset(known.values())
        self._only_known = only_known

    @classmethod
    def from_settings(cls, settings: Settings) -> "PersistedDocuments":
        """Use PERSISTED_DOCUMENTS and PERSISTED_ONLY; REDIS_URL must be known.

        Raises `ConfigurationError` where the file is not what it should be.
        """
        if settings.redis_url is None:
            raise ConfigurationError("REDIS_URL: must be known here")
        path = settings.persisted_documents
        try:
            known = orjson.loads(path.read_bytes()) if path else {}
        except (OSError, ValueError):
            reason = "PERSISTED_DOCUMENTS: no JSON file can be read there"
            raise ConfigurationError(reason) from None
        if not isinstance(known, dict) or not all(isinstance(each, str) for each in known.values()):
            raise ConfigurationError("PERSISTED_DOCUMENTS: must hold an object of hash: document")
        return cls(settings.redis_url, known, only_known=settings.persisted_only)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def find(self, query: str | None, document_id: str | None) -> str:
        """Return the document's text.

        Raises `PersistedQueryNotFound` for an unknown id that comes alone, and `BadUserInput` for a
        document that may not run.
        """
        if document_id is not None and document_id in self._known:
            return self._known[document_id]
        if query is not None and self._only_known and query not in self._texts:
            raise BadUserInput("Only persisted documents run here.")
        if query is not None:
            return query
        text = None if self._only_known else await self._recall(document_id or "")
        if text is None:
            raise PersistedQueryNotFound
        return text

    async def remember(self, text: str, document_id: str) -> None:
        """Keep a good document under its hash; under anything else it is not kept."""
        content = text.encode()
        if document_id in self._known or self._only_known or len(content) > _MAX_REMEMBERED_BYTES:
            return
        if sha256(content).hexdigest() != document_id:
            return
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                async with self._redis.pipeline(transaction=False) as pipeline:
                    pipeline.set(_PREFIX + document_id, text, ex=_LIFETIME_SECONDS)
                    pipeline.zadd(_INDEX, {document_id: time.time()})
                    pipeline.expire(_INDEX, _LIFETIME_SECONDS)
                    pipeline.zcard(_INDEX)
                    count = (await pipeline.execute())[-1]
                if count > _MAX_REMEMBERED:
                    oldest = await self._redis.zpopmin(_INDEX, count - _MAX_REMEMBERED)
                    await self._redis.delete(*(_PREFIX + name for name, _ in oldest))
        except (RedisError, OSError) as error:
            _log.warning("document.not_remembered", reason=type(error).__name__)

    async def _recall(self, document_id: str) -> str | None:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                async with self._redis.pipeline(transaction=False) as pipeline:
                    pipeline.getex(_PREFIX + document_id, ex=_LIFETIME_SECONDS)
                    pipeline.zadd(_INDEX, {document_id: time.time()}, xx=True)
                    pipeline.expire(_INDEX, _LIFETIME_SECONDS)
                    text: str | None = (await pipeline.execute())[0]
                    return text
        except (RedisError, OSError) as error:
            _log.warning("document.not_looked_up", reason=type(error).__name__)
            return None
