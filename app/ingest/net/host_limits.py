"""How many requests a host bears at once, learnt from what it refuses.

No limit is known at first.  Where a host refuses or drops one of several requests, and answers it
well when it is asked again, half as many go to it from then on, down to one, and twice as many
after each minute without refusal; all downloads of the process keep to that.  Hosts count
connections: one that is kept for the next request counts as well.  What is never answered well
teaches nothing: no link of a stranger slows down those of others.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import structlog

from app.domain import LectureFailure
from app.errors import IngestFailed, InvalidInput
from app.ingest.net.urls import parse_web_url

log = structlog.get_logger(__name__)

_DOUBLED_AFTER_SECONDS = 60.0
_MOST_DOUBLINGS = 10
_LOOK_AGAIN_SECONDS = 1.0
_MOST_DOUBTS = 8
"""How often one request may be refused among others before that counts; halving takes six."""
_MAX_HOSTS = 1000
_MANY = 1000


class HostLimit:
    """What one host bears; safe for any number of tasks."""

    def __init__(self) -> None:
        self._most: int | None = None
        self._learnt_at = 0.0
        self._freed = asyncio.Event()
        self._idle: list[asyncio.WriteTransport] = []
        self.in_flight = 0

    @property
    def is_in_use(self) -> bool:
        """Whether a request is under way, or a connection kept for one."""
        return bool(self.in_flight or self._idle)

    @property
    def is_known(self) -> bool:
        """Whether the host has taught anything that is not forgotten."""
        return self.most_of(_MANY) < _MANY

    def most_of(self, wanted: int) -> int:
        """Return how many of so many requests may be under way."""
        doublings = int((time.monotonic() - self._learnt_at) // _DOUBLED_AFTER_SECONDS)
        if doublings > _MOST_DOUBLINGS:
            self._most = None
        return wanted if self._most is None else min(wanted, self._most << doublings)

    @asynccontextmanager
    async def place(
        self, is_urgent: Callable[[], bool] = lambda: False
    ) -> AsyncIterator[Callable[[], int]]:
        """Wait until a request may be sent, or is urgent; it is under way in the block.

        Yields what tells how many were under way, or kept, together with it, itself included.
        """
        while not is_urgent() and self.most_of(self.in_flight + 1) <= self.in_flight:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN_SECONDS):
                    await self._freed.wait()
        self.in_flight += 1
        together = self._connections
        try:
            yield lambda: max(together, self._connections)
        finally:
            self.in_flight -= 1
            freed, self._freed = self._freed, asyncio.Event()
            freed.set()

    def learn(self, together: int) -> None:
        """Learn that one of so many requests was refused, which was answered well later."""
        most = max(1, together // 2)
        if together > 1 and self.most_of(together) > most:
            self._most, self._learnt_at = most, time.monotonic()
            log.info("host_limit_learnt", in_flight=together, most=most)
            self.make_room()

    def keep(self, transport: asyncio.WriteTransport) -> bool:
        """Keep the connection of a request that ends for another one, if there is room for it."""
        has_room = self._has_room
        if has_room:
            self._idle.append(transport)
        return has_room

    def take(self, transport: asyncio.WriteTransport) -> bool:
        """Take back a connection that was kept; False where it had to be closed meanwhile."""
        is_open = transport in self._idle
        if is_open:
            self._idle.remove(transport)
        return is_open

    def make_room(self) -> None:
        """Close kept connections that are too many beside what is under way."""
        while self._idle and not self._has_room:
            self._idle.pop(0).abort()

    @property
    def _connections(self) -> int:
        return self.in_flight + len(self._idle)

    @property
    def _has_room(self) -> bool:
        return self.most_of(self._connections) == self._connections


class Doubt:
    """Whether one request is refused for those beside it; what is answered in the end tells."""

    def __init__(self, limit: HostLimit) -> None:
        self._limit = limit
        self._together = self.doubts = 0

    def is_due(self, failure: IngestFailed, together: int) -> bool:
        """Whether the failure, of one of so many requests, may be for the others: a few times."""
        self._together = together
        is_due = together > 1 and self.doubts < _MOST_DOUBTS and may_be_crowding(failure)
        self.doubts += is_due
        return is_due

    def resolve(self) -> None:
        """Learn from the last failure, now that the request is answered well."""
        self._limit.learn(self._together)


def may_be_crowding(failure: IngestFailed) -> bool:
    """Whether a host answers so, or not at all, where it is asked too much at once."""
    return failure.transient or failure.failure is LectureFailure.LOGIN_REQUIRED


class HostLimits:
    """The limits of the hosts that a process asks."""

    def __init__(self) -> None:
        self._limits: dict[str, HostLimit] = {}

    def of(self, url: str) -> HostLimit:
        """Return the limit of the URL's host and port; of no URL, one that is nobody's."""
        try:
            host = parse_web_url(url, "url", max_characters=len(url)).authority_with_port
        except InvalidInput:
            return HostLimit()
        if host not in self._limits and len(self._limits) >= _MAX_HOSTS:
            idle = [name for name, limit in self._limits.items() if not limit.is_in_use]
            oldest = min(idle, key=lambda name: self._limits[name].is_known, default=host)
            self._limits.pop(oldest, None)
        return self._limits.setdefault(host, HostLimit())
