"""A handler of jobs that does nothing, and tells what happened to it."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import ledger
from app.db.ledger import Lease
from app.domain import JobKind, JobState
from app.services.kernel.jobs import JobHandler


class Recorder(JobHandler):
    """A handler of page counts that can be told to stay, and that tells what happened to it."""

    kind = JobKind.COUNT_PAGES

    def __init__(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        self.sessions = sessions
        self.events: list[str] = []
        self.broken: Exception | None = None

    async def run(self, lease: Lease) -> str:
        self.events.append("run")
        try:
            if self.broken:
                raise self.broken
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise
        return "done"

    async def abandon(self, lease: Lease) -> None:
        self.events.append("abandoned")
        async with self.sessions.begin() as session:
            await ledger.finish(session, lease, JobState.FAILED)

    async def hand_back(self, lease: Lease) -> None:
        self.events.append("handed back")
        async with self.sessions.begin() as session:
            await ledger.requeue(session, lease, attempt=lease.attempt)

    async def forget(self, lease: Lease) -> None:
        self.events.append("forgotten")
