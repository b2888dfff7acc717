"""A line of so many bytes per second and such a round trip, shared by all that flows over it."""

import asyncio
import time
from dataclasses import dataclass, field

_LONGEST_CREDIT_SECONDS = 0.003


@dataclass
class Link:
    """What lies between a client and the media: a token bucket, and a wait per request.

    A connection's first request waits one round trip more, for its handshake.  TCP's slow start is
    left out.
    """

    bytes_per_second: float = 20_000_000
    round_trip_seconds: float = 0.03
    _free_at: float = 0.0
    _known: set[tuple[str, int]] = field(default_factory=set)

    async def request(self, client: tuple[str, int] | None) -> None:
        """Wait as long as a request and its answer's first byte travel."""
        trips = 1
        if client is not None and client not in self._known:
            self._known.add(client)
            trips = 2
        await asyncio.sleep(trips * self.round_trip_seconds)

    async def carry(self, size_bytes: int) -> None:
        """Wait until so many bytes have gone through, after those of all other answers."""
        now = time.monotonic()
        start = max(self._free_at, now - _LONGEST_CREDIT_SECONDS)
        self._free_at = start + size_bytes / self.bytes_per_second
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)
