"""What is done with one kind of job: a class with `run`, and a line in `app.worker`.

The defaults are those of work that has nothing of its own to tidy.
"""

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from app.db import ledger
from app.db.ledger import Lease
from app.domain import JobKind, JobState
from app.services.kernel.unit_of_work import UnitOfWork, Work


class Lane(StrEnum):
    """Kinds that share a number of slots; lanes do not wait for each other."""

    DOWNLOADS = "downloads"
    TRANSCRIPTIONS = "transcriptions"
    INDEXING = "indexing"
    SUMMARIES = "summaries"
    LIGHT = "light"


class JobHandler(ABC):
    """What is done with one kind of job.  Every method may raise `LeaseLost`."""

    kind: ClassVar[JobKind]
    lane: ClassVar[Lane] = Lane.LIGHT

    def __init__(self, work: Work) -> None:
        self._work = work

    @abstractmethod
    async def run(self, lease: Lease) -> str:
        """Do the work, close or requeue the job, and return which: done, failed or retried.

        Cancelled, it leaves nothing behind but what `hand_back` keeps or `forget` deletes.
        """

    async def abandon(self, lease: Lease) -> None:
        """Close a job that cannot be worked on: it killed its workers, or hit a fault of ours."""
        async with self._work.begin() as unit:
            await ledger.finish(unit.session, lease, JobState.FAILED)

    async def hand_back(self, lease: Lease) -> None:
        """Put the job back for another worker at once, as if it had not been taken up."""
        async with self._work.begin() as unit:
            await ledger.requeue(unit.session, lease, attempt=lease.attempt)
            unit.ring()

    async def forget(self, lease: Lease) -> None:  # noqa: B027 - nothing is a good default
        """Delete what is left of work on a job that was taken away: nothing, as a rule."""


async def open_topic_job(unit: UnitOfWork, subject_id: UUID, user_id: UUID | None) -> None:
    """Queue the judgement of a transcription's topics, or of a user's; ring after the commit."""
    if await ledger.open_job(unit.session, JobKind.JUDGE_TOPICS, subject_id, user_id):
        unit.ring()


async def open_index_job(unit: UnitOfWork, subject_id: UUID, user_id: UUID | None) -> None:
    """Queue what lets search find a transcription or a document; ring after the commit."""
    if await ledger.open_job(unit.session, JobKind.INDEX, subject_id, user_id):
        unit.ring()
