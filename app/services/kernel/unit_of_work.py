"""One transaction per mutation, and what is announced once it has committed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db.models import UserDocument, UserLecture
from app.events.wakeups import Wakeup
from app.services.kernel.ports import Doorbell, WakeupPublisher


@dataclass(slots=True)
class UnitOfWork:
    """A running transaction and the announcements that wait for its commit."""

    session: AsyncSession
    rings: bool = False
    wakeups: list[Wakeup] = field(default_factory=list)

    def ring(self) -> None:
        """Ring the workers' doorbell after the commit."""
        self.rings = True

    def wake(self, topic: str, subject_id: UUID, *user_ids: UUID) -> None:
        """Wake the subject's listeners, and those of the users, after the commit."""
        self.wakeups.append(Wakeup(topic, subject_id, user_ids))

    async def wake_lecture(self, lecture_id: UUID) -> None:
        """Wake whoever watches the lecture and whoever is linked to it."""
        linked = select(UserLecture.user_id).where(UserLecture.lecture_id == lecture_id)
        self.wake("lecture", lecture_id, *(await self.session.scalars(linked)))

    async def wake_document(self, document_id: UUID) -> None:
        """Wake whoever is linked to the document."""
        linked = select(UserDocument.user_id).where(UserDocument.document_id == document_id)
        self.wake("document", document_id, *(await self.session.scalars(linked)))


class Work:
    """Begins units of work, and announces them when they have committed.

    Announcements go out in tasks of their own: a mutation that has committed answers at once, even
    where Redis is slow or gone.  `drain` waits for the last of them.
    """

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        doorbell: Doorbell,
        publisher: WakeupPublisher,
    ) -> None:
        self.sessions = sessions
        self._doorbell = doorbell
        self._publisher = publisher
        self._announcements: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[UnitOfWork]:
        """Run the block in one transaction; commit and announce, or roll back and forget."""
        async with self.sessions.begin() as session:
            unit = UnitOfWork(session)
            yield unit
        if unit.rings or unit.wakeups:
            task = asyncio.create_task(self._announce(unit))
            self._announcements.add(task)
            task.add_done_callback(self._announcements.discard)

    async def _announce(self, unit: UnitOfWork) -> None:
        """Ring and wake side by side, so that neither waits for the other."""
        async with asyncio.TaskGroup() as group:
            if unit.rings:
                group.create_task(self._doorbell.ring())
            if unit.wakeups:
                group.create_task(self._publisher.publish(unit.wakeups))

    async def drain(self) -> None:
        """Wait until everything committed so far has been announced."""
        while self._announcements:
            await asyncio.wait(self._announcements)
