"""How many requests a host bears at once, learnt from what it refuses.

No limit is known at first.  Where a host refuses or drops one of several requests, and answers it
well when it is asked again, half as many go to it from then on, down to one; all downloads of the
process keep to that.  What is never answered well teaches nothing: no link of a stranger slows down
those of others.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import structlog

from app.domain import LectureFailure
from app.errors import IngestFailed

log = structlog.get_logger(__name__)

_FORGOTTEN_AFTER_SECONDS = 600.0
_LOOK_AGAIN_SECONDS = 1.0
_MAX_HOSTS = 1000


class HostLimit:
    """What one host bears; safe for any number of tasks."""

    def __init__(self) -> None:
        self._most: int | None = None
        self._learnt_at = 0.0
        self._freed = asyncio.Event()
        self.in_flight = 0

    def most_of(self, wanted: int) -> int:
        """Return how many of so many requests may be under way."""
        if time.monotonic() - self._learnt_at > _FORGOTTEN_AFTER_SECONDS:
            self._most = None
        return wanted if self._most is None else min(wanted, self._most)

    @asynccontextmanager
    async def place(
        self, is_urgent: Callable[[], bool] = lambda: False
    ) -> AsyncIterator[Callable[[], int]]:
        """Wait until a request may be sent, or is urgent; it is under way in the block.

        Yields what tells how many were under way together with it, itself included.
        """
        while not is_urgent() and self.most_of(self.in_flight + 1) <= self.in_flight:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN_SECONDS):
                    await self._freed.wait()
        self.in_flight += 1
        together = self.in_flight
        try:
            yield lambda: max(together, self.in_flight)
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


def may_be_crowding(failure: IngestFailed) -> bool:
    """Whether a host answers so, or not at all, where it is asked too much at once."""
    return failure.transient or failure.failure is LectureFailure.LOGIN_REQUIRED


class HostLimits:
    """The limits of the hosts that a process asks."""

    def __init__(self) -> None:
        self._limits: dict[str, HostLimit] = {}

    def of(self, url: str) -> HostLimit:
        """Return the limit of the URL's host and port."""
        host = urlsplit(url).netloc.lower()
        if host not in self._limits and len(self._limits) >= _MAX_HOSTS:
            idle = (name for name, limit in self._limits.items() if not limit.in_flight)
            self._limits.pop(next(idle, host), None)
        return self._limits.setdefault(host, HostLimit())
