"""How many requests a host bears at once, learnt from what it refuses.

No limit is known at first.  Where a host refuses or drops one of several requests, half as many go
to it from then on, down to one; all downloads of the process keep to that.
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

IsCrowding = Callable[[IngestFailed], bool]

_FORGOTTEN_AFTER_SECONDS = 600.0
_LOOK_AGAIN_SECONDS = 1.0
_MAX_HOSTS = 1000


class HostLimit:
    """What one host bears; safe for any number of tasks."""

    def __init__(self) -> None:
        self._most: int | None = None
        self._learnt_at = 0.0
        self._halvings = 0
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
    ) -> AsyncIterator[IsCrowding]:
        """Wait until a request may be sent, or is urgent; it is under way in the block.

        Yields what tells whether the request's failure is a sign of too many at once, which is
        learnt from; a request that is refused alone is no such sign.
        """
        while not is_urgent() and self.most_of(self.in_flight + 1) <= self.in_flight:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN_SECONDS):
                    await self._freed.wait()
        self.in_flight += 1
        halvings, together = self._halvings, self.in_flight
        try:
            yield lambda failure: self._is_crowding(failure, halvings, together)
        finally:
            self.in_flight -= 1
            freed, self._freed = self._freed, asyncio.Event()
            freed.set()

    def _is_crowding(self, failure: IngestFailed, halvings: int, together: int) -> bool:
        """Judge the failure of a request that was sent after so many halvings, one of so many."""
        refused = failure.transient or failure.failure is LectureFailure.LOGIN_REQUIRED
        together = max(together, self.in_flight)
        if not refused or together == 1:
            return False
        if halvings == self._halvings:
            most = self.most_of(together)
            if most == 1:
                return False
            self._most, self._learnt_at = most // 2, time.monotonic()
            self._halvings += 1
            log.info("host_limit_halved", in_flight=together, most=self._most)
        return True


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
