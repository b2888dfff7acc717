"""Wake-ups over Redis: who waits for a change is rung, and then reads the database.

A message says that something changed, never what: one lost, doubled or late changes nothing, as
long as whoever may have missed one is told to look again (`Ring.resync`).  However many listeners a
process has, it holds one pub/sub connection.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError

_log = structlog.get_logger(__name__)

CHANNEL = "studybuddy:events"

_MAX_PAIRS = 1000
_PUBLISH_SECONDS = 1.0
_PUBLISH_CONNECTIONS = 4
_FIRST_BACKOFF_SECONDS = 0.05
_MAX_BACKOFF_SECONDS = 2.0
# A line that is silent this long is asked whether it lives, and given as long again to answer.
_SILENCE_SECONDS = 5.0
_CONNECT_SECONDS = 2.0
_CANCEL_AGAIN_SECONDS = 0.2
# Each bell that is told to look again costs a query, so many of them are told one by one.
_RESYNCS_PER_SECOND = 200
_LONGEST_RESYNC_SECONDS = 5.0

_BROKEN_LINE = (RedisError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Wakeup:
    """Something changed: a subject, and the users to whom it matters.

    It rings the bells of ``{topic}:{subject_id}`` and of ``user:{id}`` for each user.
    """

    topic: str
    subject_id: UUID
    user_ids: tuple[UUID, ...] = ()

    @property
    def names(self) -> list[str]:
        """Return the names that it rings."""
        return [f"{self.topic}:{self.subject_id}", *(f"user:{user}" for user in self.user_ids)]


@dataclass(frozen=True, slots=True)
class Ring:
    """What a bell heard since it was last asked: (topic, subject) pairs.

    ``resync``: some may have been missed, so everything listened for must be read again.  A ring
    that holds nothing (false in a condition) is a wait that ran out.
    """

    subjects: frozenset[tuple[str, UUID]] = frozenset()
    resync: bool = False

    def __bool__(self) -> bool:
        return bool(self.subjects) or self.resync


class Bell:
    """Collects rings for one listener; bounded, since many rings of one subject are one."""

    __slots__ = ("_resync", "_rung", "_subjects")

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._subjects: set[tuple[str, UUID]] = set()
        self._resync = False

    async def wait(self, timeout_seconds: float | None = None) -> Ring:
        """Return what rang since the last call, waiting for the first; empty after the timeout.

        A cancelled wait loses nothing: the next one returns it.
        """
        if not self._rung.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await self._rung.wait()
        ring = Ring(frozenset(self._subjects), self._resync)
        self._subjects.clear()
        self._resync = False
        self._rung.clear()
        return ring

    def ring(self, topic: str, subject_id: UUID) -> None:
        """Note that the subject changed."""
        if not self._resync:
            self._subjects.add((topic, subject_id))
            if len(self._subjects) > _MAX_PAIRS:
                self.resync()
        self._rung.set()

    def resync(self) -> None:
        """Note that rings may have been missed."""
        self._subjects.clear()
        self._resync = True
        self._rung.set()


class Wakeups:
    """Publisher and listener of one process.

    While Redis is away every bell gets a resync when the line breaks, at each try to reconnect (at
    most 2 s apart) and when the line is back: live status then goes on as slow polling.  Many bells
    get theirs spread at random over some seconds, so that not all listeners read at once.
    """

    def __init__(self, redis_url: str) -> None:
        timeouts: dict[str, Any] = {"socket_connect_timeout": _CONNECT_SECONDS}
        pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
            redis_url, max_connections=_PUBLISH_CONNECTIONS, timeout=_PUBLISH_SECONDS, **timeouts
        )
        self._publisher: Redis = Redis.from_pool(pool)
        self._subscriber: Redis = Redis.from_url(redis_url, **timeouts)
        self._bells: dict[str, set[Bell]] = {}
        self._resyncing: set[Bell] = set()
        self._listener: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._connected = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        """Whether wake-ups arrive right now."""
        return self._connected

    async def start(self) -> None:
        """Begin to listen; returns when Redis confirmed it, or the first try failed.

        A Redis that cannot be reached is no error: it is tried again for ever.
        """
        self._listener = asyncio.create_task(self._listen_for_ever(), name="wakeups")
        await self._tried.wait()

    async def close(self) -> None:
        """Stop listening and close every connection."""
        if self._listener is not None:
            # redis-py can swallow a cancellation that comes while it connects or sends.
            while not self._listener.done():
                self._listener.cancel()
                await asyncio.wait([self._listener], timeout=_CANCEL_AGAIN_SECONDS)
            self._listener = None
        await self._publisher.aclose()
        await self._subscriber.aclose()

    @contextlib.contextmanager
    def listen(self, *names: str) -> Iterator[Bell]:
        """Give a bell for names such as ``lecture:{id}`` and ``user:{id}``.

        Take it before reading the state that it is to watch, so that no change falls in between.
        """
        bell = Bell()
        for name in names:
            self._bells.setdefault(name, set()).add(bell)
        try:
            yield bell
        finally:
            for name in names:
                bells = self._bells[name]
                bells.discard(bell)
                if not bells:
                    del self._bells[name]

    async def publish(self, wakeups: Iterable[Wakeup]) -> None:
        """Ring the listeners of every process, this one included, within about a second.

        Never raises on a broken line: a second try is made on a fresh connection, after which this
        process alone is rung; the others look again when their own line is back.
        """
        wakeups = list(wakeups)
        if not wakeups:
            return
        try:
            async with asyncio.timeout(_PUBLISH_SECONDS):
                try:
                    await self._send(wakeups)
                except _BROKEN_LINE:
                    # The pooled lines may all have died with the server.
                    await self._publisher.connection_pool.disconnect(inuse_connections=False)
                    await self._send(wakeups)
        except _BROKEN_LINE as error:
            _log.warning("wakeups.unsent", count=len(wakeups), reason=type(error).__name__)
            for wakeup in wakeups:
                self._ring(wakeup)

    async def _send(self, wakeups: list[Wakeup]) -> None:
        async with self._publisher.pipeline(transaction=False) as pipeline:
            for wakeup in wakeups:
                users = [str(user) for user in wakeup.user_ids]
                message = {"topic": wakeup.topic, "id": str(wakeup.subject_id), "users": users}
                pipeline.publish(CHANNEL, json.dumps(message))
            await pipeline.execute()

    async def _listen_for_ever(self) -> None:
        backoff_seconds = _FIRST_BACKOFF_SECONDS
        while True:
            try:
                await self._listen_once()
            except Exception as error:  # noqa: BLE001 - whatever broke the line, it must come back
                if self._connected:
                    backoff_seconds = _FIRST_BACKOFF_SECONDS
                    _log.warning("wakeups.line_lost", reason=type(error).__name__)
                self._connected = False
            self._resync_all()
            self._tried.set()
            await asyncio.sleep(backoff_seconds)
            backoff_seconds = min(backoff_seconds * 2, _MAX_BACKOFF_SECONDS)

    async def _listen_once(self) -> None:
        """Listen until the line breaks, which raises."""
        async with self._subscriber.pubsub() as pubsub:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await pubsub.subscribe(CHANNEL)
            try:
                asked = False
                while True:
                    message = await pubsub.get_message(timeout=_SILENCE_SECONDS)
                    if message is not None:
                        self._handle(message)
                    elif asked:
                        raise TimeoutError
                    else:
                        await pubsub.ping()
                    asked = message is None
            finally:
                # Closing hands the line back to be used again, and a broken one must not be.
                await self._subscriber.connection_pool.disconnect()

    def _handle(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            _log.info("wakeups.listening")
            self._connected = True
            self._resync_all()
            self._tried.set()
        elif message["type"] == "message":
            wakeup = _decode(message["data"])
            if wakeup is None:
                _log.warning("wakeups.unreadable")
            else:
                self._ring(wakeup)

    def _ring(self, wakeup: Wakeup) -> None:
        for name in wakeup.names:
            for bell in self._bells.get(name, ()):
                bell.ring(wakeup.topic, wakeup.subject_id)

    def _resync_all(self) -> None:
        bells = {bell for named in self._bells.values() for bell in named}
        spread_seconds = min(len(bells) / _RESYNCS_PER_SECOND, _LONGEST_RESYNC_SECONDS)
        loop = asyncio.get_running_loop()
        for bell in bells - self._resyncing:
            self._resyncing.add(bell)
            loop.call_later(random.uniform(0, spread_seconds), self._resync, bell)  # noqa: S311

    def _resync(self, bell: Bell) -> None:
        self._resyncing.discard(bell)
        bell.resync()


def _decode(data: bytes | str) -> Wakeup | None:
    """Return the wake-up, or None for a message that is none of ours."""
    try:
        fields = json.loads(data)
        users = tuple(UUID(user) for user in fields["users"])
        return Wakeup(str(fields["topic"]), UUID(fields["id"]), users)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
