"""What a resolver is given: who asks, and how to reach everything.  It holds no open session."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from uuid import UUID
from weakref import WeakValueDictionary

from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.links import LinkSigner, steady_expiry
from app.auth.viewer import Viewer
from app.backends import Backends
from app.loaders import Loaders
from app.services.kernel.quotas import Allowance, Usage
from app.services.transcripts.text import READS_AT_ONCE, READS_AT_ONCE_OF_ONE, TranscriptText
from app.settings import Settings

QUERIES_AT_ONCE = 4
"""Of one user: sibling fields run side by side, and twenty would take the whole pool."""


@dataclass(frozen=True, slots=True)
class AppState:
    """What lives as long as the process."""

    settings: Settings
    backends: Backends
    links: LinkSigner
    _turns: WeakValueDictionary[UUID, asyncio.Semaphore] = field(
        default_factory=WeakValueDictionary, init=False
    )
    _own_text_turns: WeakValueDictionary[UUID, asyncio.Semaphore] = field(
        default_factory=WeakValueDictionary, init=False
    )

    text_turns: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(READS_AT_ONCE), init=False
    )
    """What all readings of transcripts take turns at: each holds a whole one while it is parsed."""

    def turns_of(self, viewer: Viewer) -> asyncio.Semaphore:
        """Return what all queries of the viewer take turns at, for as long as there are any."""
        return self._turns.setdefault(viewer.id, asyncio.Semaphore(QUERIES_AT_ONCE))

    def text_turns_of(self, viewer: Viewer) -> asyncio.Semaphore:
        """Return what the viewer's readings of transcripts take turns at, before all readings."""
        return self._own_text_turns.setdefault(viewer.id, asyncio.Semaphore(READS_AT_ONCE_OF_ONE))


@dataclass(frozen=True)
class GraphQLContext:
    """One operation's context: made anew for each, also on a socket that runs many."""

    app: AppState
    viewer: Viewer
    request_id: str
    allowance: Allowance

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """Open a session to read with; a field never asks for a second one within the first."""
        async with self.app.turns_of(self.viewer), self.app.backends.sessions() as session:
            yield session

    @cached_property
    def loaders(self) -> Loaders:
        """What many fields of the answer ask for, read together."""
        return Loaders(self.session, self.viewer)

    def text_of(self, storage_key: str | None) -> TranscriptText:
        """Return what reads a transcription's text where it is asked for."""
        own_turns = self.app.text_turns_of(self.viewer)
        return TranscriptText(
            self.app.backends.storage, own_turns, self.app.text_turns, storage_key
        )

    def sign_file(self, kind: str, item_id: UUID, ttl_seconds: int) -> tuple[str, int]:
        """Return the query of a signed link of the viewer's, and when it ends (since the epoch)."""
        expires_at = steady_expiry(time.time(), ttl_seconds)
        query = self.app.links.sign(kind, item_id, self.viewer.id, expires_at)
        return query, expires_at

    @property
    def usages(self) -> Collection[Usage]:
        """What the operation has used of the viewer's quotas."""
        return self.allowance.usages.values()
