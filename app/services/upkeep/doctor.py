"""`studybuddy doctor`: whether rows, objects and jobs fit together.  It changes nothing.

A storage that cannot be listed, and a database that is away, end the examination; one object that
cannot be read is a finding like any other.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import and_, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db.models import Document, Job, Lecture
from app.domain import JobKind, LectureStatus
from app.errors import ObjectNotFound, StorageError
from app.ingest.pipeline import TOLERANCE_RATIO, TOLERANCE_SECONDS
from app.services.kernel.stored import StoredAudio, StoredItem
from app.services.lectures.states import RUNNING
from app.services.upkeep import stored_audio
from app.services.upkeep.inventory import (
    BATCH,
    OPEN,
    is_ours,
    is_pointed_at,
    orphans_among,
    stored_items,
)
from app.storage.protocol import ObjectInfo, ObjectStore

SECOND_LOOK_SECONDS = 1.0
"""An object is published a moment before its row, and deleted a moment after it."""

_UNREADABLE = "object that cannot be read"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that does not fit: what kind of thing, and which (a storage key, or an id)."""

    problem: str
    item: str


@dataclass(frozen=True, slots=True)
class Doctor:
    """Examines one database and the store that it belongs to, both of them in use or not.

    ``scratch`` is this machine's own folder beside a store that is elsewhere; None where there is
    none.
    """

    sessions: async_sessionmaker[AsyncSession]
    storage: ObjectStore
    scratch: ObjectStore | None = None

    async def examine(self, *, deep: bool = False) -> list[Finding]:
        """Return what does not fit.

        ``deep`` reads every document and compares its SHA-256, and compares what each recording's
        file says of its length with what the row says.  What was found by its size is not read.

        Raises `StorageError` where the store cannot be listed, and the database's errors.
        """
        objects = {found.key: found async for found in self.storage.list_all()}
        async with self.sessions() as session:
            items = [item async for item in stored_items(session)]
        suspected = [item for item in items if _misfit(item, objects.get(item.key))]
        suspects = await self._orphans(objects)
        if suspected or suspects:
            await asyncio.sleep(SECOND_LOOK_SECONDS)
        findings = await self._found(suspected, self._problem_with)
        findings += await self._still_orphans(self.storage, suspects, "object without a row")
        unknown = [key for key in objects if not is_ours(key)]
        findings += [Finding("object of no known kind", key) for key in unknown]
        findings += await self._in_scratch()
        findings += await self._jobs_and_states()
        if deep:
            known = {found.item for found in findings}
            left = [item for item in items if item.key not in known]
            findings += await self._found(left, self._problem_inside)
        return sorted(set(findings))

    async def _found(
        self, items: Sequence[StoredItem], look: Callable[[StoredItem], Awaitable[str | None]]
    ) -> list[Finding]:
        """Look at the objects, and tell of those that a row still points at."""
        findings: list[Finding] = []
        for item in items:
            if problem := await look(item):
                async with self.sessions() as session:
                    if await is_pointed_at(session, item.key):
                        findings.append(Finding(problem, item.key))
        return findings

    async def _problem_with(self, item: StoredItem) -> str | None:
        """Look again at what seemed to be missing, or to have a wrong size."""
        try:
            found = await self.storage.stat_file(item.key)
        except ObjectNotFound:
            return _misfit(item, None)
        except StorageError:
            return _UNREADABLE
        return _misfit(item, found)

    async def _in_scratch(self) -> list[Finding]:
        """Look for what no job will need again; the sweep of this machine's workers takes it."""
        if self.scratch is None:
            return []
        keys = [found.key async for found in self.scratch.list_all()]
        suspects = await self._orphans(keys)
        if suspects:
            await asyncio.sleep(SECOND_LOOK_SECONDS)
        findings = await self._still_orphans(self.scratch, suspects, "scratch file without a job")
        unknown = [key for key in keys if not is_ours(key)]
        return findings + [Finding("scratch file of no known kind", key) for key in unknown]

    async def _still_orphans(
        self, store: ObjectStore, keys: Sequence[str], problem: str
    ) -> list[Finding]:
        """Look again at what seemed to be nobody's."""
        orphans = await self._orphans(keys)
        there = {found.key async for found in store.list_all()} if orphans else set()
        return [Finding(problem, key) for key in orphans if key in there]

    async def _orphans(self, keys: Iterable[str]) -> list[str]:
        left, found = iter(keys), []
        while batch := list(islice(left, BATCH)):
            async with self.sessions() as session:
                found += await orphans_among(session, batch)
        return found

    async def _problem_inside(self, item: StoredItem) -> str | None:
        """Compare bytes, or lengths; what is missing was found before."""
        try:
            if isinstance(item, StoredAudio):
                return await self._problem_with_sound(item)
            if item.checksum is None:
                return None
            digest = hashlib.sha256()
            async with self.storage.open_file(item.key) as opened:
                async for chunk in opened.chunks:
                    digest.update(chunk)
        except ObjectNotFound:
            return None
        except StorageError:
            return _UNREADABLE
        return None if digest.hexdigest() == item.checksum else "object with other bytes"

    async def _problem_with_sound(self, item: StoredAudio) -> str | None:
        found = await stored_audio.read_duration(self.storage, item.key)
        if found is None:
            return "object that is no whole recording"
        expected = item.duration_seconds
        if expected is None:
            return None
        # What the pipeline allows, and what the row is rounded by.
        allowed = max(TOLERANCE_SECONDS, TOLERANCE_RATIO * expected) + 0.5
        return "object of another duration" if abs(found - expected) > allowed else None

    async def _jobs_and_states(self) -> list[Finding]:
        """Compare the ledger with what it serves; each query sees one moment."""
        opened = select(literal(1)).where(
            Job.subject_id == Lecture.id,
            Job.kind == JobKind.DOWNLOAD_LECTURE,
            Job.state.in_(OPEN),
        )
        idle = select(Lecture.id).where(Lecture.status.in_(RUNNING), ~opened.exists())
        lost = select(Lecture.id).where(
            Lecture.status == LectureStatus.COMPLETED, Lecture.duration_seconds.is_(None)
        )
        lecture = select(literal(1)).where(
            Lecture.id == Job.subject_id, Lecture.status.in_(RUNNING)
        )
        document = select(literal(1)).where(Document.id == Job.subject_id)
        aimless = select(Job.subject_id).where(
            Job.state.in_(OPEN),
            or_(
                and_(Job.kind == JobKind.DOWNLOAD_LECTURE, ~lecture.exists()),
                and_(Job.kind == JobKind.COUNT_PAGES, ~document.exists()),
            ),
        )
        problems = {
            "unfinished lecture without a job": idle,
            "completed lecture without a duration": lost,
            "open job without its subject": aimless,
        }
        async with self.sessions() as session:
            return [
                Finding(problem, str(found))
                for problem, query in problems.items()
                for found in await session.scalars(query)
            ]


def _misfit(item: StoredItem, found: ObjectInfo | None) -> str | None:
    """Return what an object's size alone tells, or None where it fits."""
    if found is None:
        return "row without its object"
    if item.size_bytes not in (None, found.size_bytes):
        return "object of another size"
    if isinstance(item, StoredAudio) and found.size_bytes < stored_audio.LEAST_BYTES:
        return "object too small to be a recording" if found.size_bytes else "empty object"
    return None
