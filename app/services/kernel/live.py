"""Live status: wake-ups say that something may have changed, the database says what.

A listener registers first and reads second, so that no change falls in between.  It also looks
again after a while of silence, since a wake-up can be lost with the Redis that carries it.  While
the database is away it waits, however long that takes, and goes on with the newest state.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Generic, Protocol, TypeVar
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.auth.viewer import Viewer
from app.db.outages import is_outage
from app.domain import EventKind
from app.errors import NotFound
from app.events.wakeups import Wakeups

Sessions = async_sessionmaker[AsyncSession]
Item = TypeVar("Item")
Seen = TypeVar("Seen")
Versions = dict[UUID, object]

LOOK_AGAIN_SECONDS = 10.0
LOOK_THROUGH_ALL_SECONDS = 30.0

LOOKS_AT_ONCE = 4
"""Of all the streams of a process: they leave the larger part of the pool to requests."""

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0

_log = structlog.get_logger(__name__)


class Lookout:
    """Reads for every live stream of a process: a few at a time, and never in vain.

    A look that finds the database away keeps its turn for a pause, without a connection, and then
    takes another one.  So few attempts are made however many streams wait, all of them follow soon
    after the first has succeeded, and one that fails for reasons of its own holds up no other.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._turns = asyncio.Semaphore(LOOKS_AT_ONCE)

    async def look(self, read: Callable[[AsyncSession], Awaitable[Seen]]) -> Seen:
        """Return what ``read`` returns in a session of its own; it may be called again."""
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            async with self._turns:
                try:
                    async with self._sessions() as session:
                        return await read(session)
                except Exception as error:
                    if not is_outage(error):
                        raise
                    if pause_seconds == _FIRST_PAUSE_SECONDS:
                        _log.warning("live.database_away", reason=type(error).__name__)
                await asyncio.sleep(pause_seconds * random.uniform(0.5, 1))  # noqa: S311
                pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)


class Progressing(Protocol):
    """What stands somewhere, and counts its changes."""

    @property
    def id(self) -> UUID:
        """Its id, another than was asked for where it was merged away."""
        ...

    @property
    def revision(self) -> int:
        """Rises with every change."""
        ...

    @property
    def status(self) -> StrEnum:
        """Where it stands."""
        ...


Watched = TypeVar("Watched", bound=Progressing)


async def watch(
    lookout: Lookout,
    wakeups: Wakeups,
    topic: str,
    item_id: UUID,
    read: Callable[[AsyncSession], Awaitable[Watched | None]],
    ended: Collection[StrEnum],
) -> AsyncGenerator[Watched, None]:
    """Yield what ``read`` finds as it stands, then its newest state after changes; revisions rise.

    Ends once it stands at one of ``ended``, or the viewer loses it; `NotFound` where there is none
    to begin with.  What is merged into another goes on as the survivor.
    """
    watched, revision = item_id, -1
    while True:
        with wakeups.listen(f"{topic}:{watched}") as bell:
            while True:
                item = await lookout.look(read)
                if item is None and revision < 0:
                    raise NotFound(topic, item_id)
                if item is None:
                    return
                if item.id != watched:
                    watched = item.id
                    break
                if item.revision > revision:
                    revision = item.revision
                    yield item
                if item.status in ended:
                    return
                await bell.wait(LOOK_AGAIN_SECONDS)


@dataclass(frozen=True, slots=True)
class Change(Generic[Item]):
    """An item of the viewer's that changed; None once the viewer has lost it.

    ``is_new``: nothing was told of it before, nor was it there when the following began.
    """

    item_id: UUID
    item: Item | None
    is_new: bool

    @property
    def kind(self) -> EventKind:
        """Return what happened to it."""
        if self.item is None:
            return EventKind.REMOVED
        return EventKind.LINKED if self.is_new else EventKind.CHANGED


@dataclass(frozen=True, slots=True)
class Feed(Generic[Item]):
    """What the viewer is linked to: each item's version, and how to read some."""

    topic: str
    versions: Callable[[AsyncSession, Viewer, Collection[UUID] | None], Awaitable[Versions]]
    read: Callable[[AsyncSession, Viewer, Collection[UUID]], Awaitable[dict[UUID, Item]]]
    version_of: Callable[[Item], object]


async def follow(
    lookout: Lookout, wakeups: Wakeups, viewer: Viewer, feed: Feed[Item]
) -> AsyncGenerator[Change[Item], None]:
    """Yield every change of what the viewer is linked to, from now on; never ends by itself."""
    with wakeups.listen(f"user:{viewer.id}") as bell:
        known = await lookout.look(lambda s: feed.versions(s, viewer, None))
        while True:
            ring = await bell.wait(LOOK_THROUGH_ALL_SECONDS)
            rung: set[UUID] | None = None  # Everything is looked at.
            if ring.subjects and not ring.resync:
                rung = {subject_id for topic, subject_id in ring.subjects if topic == feed.topic}
                if not rung:
                    continue
            look = partial(_changes, viewer=viewer, feed=feed, known=known, rung=rung)
            for change in await lookout.look(look):
                if change.item is None:
                    known.pop(change.item_id, None)
                else:  # It may be newer than the version that was found.
                    known[change.item_id] = feed.version_of(change.item)
                yield change


async def _changes(
    session: AsyncSession,
    viewer: Viewer,
    feed: Feed[Item],
    known: Versions,
    rung: set[UUID] | None,
) -> list[Change[Item]]:
    current = await feed.versions(session, viewer, rung)
    looked_at = known.keys() | current.keys() if rung is None else rung
    changed = [id_ for id_ in looked_at if known.get(id_) != current.get(id_)]
    there = [id_ for id_ in changed if id_ in current]
    items = await feed.read(session, viewer, there) if there else {}
    return [Change(id_, items.get(id_), is_new=id_ not in known) for id_ in changed]
