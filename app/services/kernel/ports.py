"""What services need from the outside, as protocols; `main` plugs the real things in."""

from collections.abc import Iterable
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncSession

from app.events.wakeups import Wakeup

Session = AsyncSession
"""A short transaction of its own, as resolvers pass it on without knowing it."""


class Doorbell(Protocol):
    """Tells workers that the ledger has work.  A ring lost or doubled changes nothing."""

    async def ring(self) -> None:
        """Ring; never raises on a broken line."""
        ...


class WakeupPublisher(Protocol):
    """Tells listeners in every process which subjects changed.  The database stays the truth."""

    async def publish(self, wakeups: Iterable[Wakeup]) -> None:
        """Publish; never raises on a broken line."""
        ...
