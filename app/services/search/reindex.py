"""Index anew what has vectors of another embedder, or none: `studybuddy reindex`.

The ledger remembers what is still to do, so that it goes on wherever it was left; until a text's
turn comes, search finds it by its words.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import CompoundSelect, Select, func, select, union_all
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import ledger
from app.db.models import Document, Job, Transcription
from app.db.vectors import extensions
from app.domain import JobKind, JobState, TranscriptionStatus

_AT_ONCE = 500
_LOOK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Reindexing:
    """How far it is: texts that are still to be indexed, and those of them that wait for it."""

    left: int
    waiting: int


async def reindex(
    sessions: async_sessionmaker[AsyncSession], embedder: str | None
) -> AsyncIterator[Reindexing]:
    """Queue what has not got the embedder's vectors, and tell how far it is, until it is done.

    ``embedder`` is the model's id; None where words alone are searched.  What fails is left over:
    then nothing waits any more.
    """
    async with sessions() as session:
        wanted = embedder if (await extensions(session)).vectors else None
    last = UUID(int=0)
    while True:
        async with sessions.begin() as session:
            ids = (await session.scalars(_stale(wanted, last))).all()
            for id_ in ids:
                await ledger.open_job(session, JobKind.INDEX, id_, None)
        if not ids:
            break
        last = ids[-1]
    while True:
        async with sessions() as session:
            stale = _stale(wanted, UUID(int=0), limit=None).subquery()
            left = await session.scalar(select(func.count()).select_from(stale)) or 0
            is_open = Job.state.in_((JobState.QUEUED, JobState.RUNNING))
            waiting = select(func.count()).where(Job.kind == JobKind.INDEX, is_open)
            state = Reindexing(left, await session.scalar(waiting) or 0)
        yield state
        if not state.left or not state.waiting:
            return
        await asyncio.sleep(_LOOK_SECONDS)


def _stale(embedder: str | None, after: UUID, limit: int | None = _AT_ONCE) -> CompoundSelect[UUID]:
    def of(table: type[Transcription | Document]) -> Select[UUID]:
        others = table.indexed_at.is_(None) | table.embedder.is_distinct_from(embedder)
        return select(table.id).where(table.id > after, others)

    done = Transcription.status == TranscriptionStatus.COMPLETED
    return union_all(of(Transcription).where(done), of(Document)).order_by("id").limit(limit)
