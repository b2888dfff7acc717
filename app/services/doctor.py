"""`studybuddy doctor`: whether rows, objects and jobs fit together.  It changes nothing.

A storage that cannot be listed, and a database that is away, end the examination; one object that
cannot be read is a finding like any other.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import and_, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db.models import Document, Job, Lecture
from app.domain import JobKind, LectureStatus
from app.errors import ObjectNotFound, StorageError
from app.services.inventory import (
    BATCH,
    OPEN,
    StoredItem,
    document_of,
    is_pointed_at,
    lecture_of,
    orphans_among,
    stored_items,
)
from app.services.lecture_requests import RUNNING
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
        """Return what does not fit; ``deep`` reads every document and compares its SHA-256.

        Raises `StorageError` where the store cannot be listed, and the database's errors.
        """
        objects = {found.key: found async for found in self.storage.list_files()}
        async with self.sessions() as session:
            items = [item async for item in stored_items(session)]
        suspected = [item for item in items if not _fits(item, objects.get(item.key))]
        strays = await self._orphans(objects)
        if suspected or strays:
            await asyncio.sleep(SECOND_LOOK_SECONDS)
        findings = await self._unfit(suspected)
        findings += await self._strays(self.storage, strays, "object without a row")
        findings += [Finding("object of no known kind", key) for key in objects if _unknown(key)]
        findings += await self._in_scratch()
        findings += await self._jobs_and_states()
        if deep:
            findings += await self._altered(items)
        return sorted(set(findings))

    async def _unfit(self, items: Sequence[StoredItem]) -> list[Finding]:
        """Look again at objects that seemed to be missing, or to have another size."""
        return [
            Finding(problem, item.key)
            for item in items
            if (problem := await self._problem_with(item)) and await self._is_pointed_at(item.key)
        ]

    async def _problem_with(self, item: StoredItem) -> str | None:
        try:
            found = await self.storage.stat_file(item.key)
        except ObjectNotFound:
            return "row without its object"
        except StorageError:
            return _UNREADABLE
        return None if _fits(item, found) else "object of another size"

    async def _in_scratch(self) -> list[Finding]:
        """Look for what no job will need again; the sweep of this machine's workers takes it."""
        if self.scratch is None:
            return []
        keys = [found.key async for found in self.scratch.list_files()]
        strays = await self._orphans(keys)
        if strays:
            await asyncio.sleep(SECOND_LOOK_SECONDS)
        findings = await self._strays(self.scratch, strays, "scratch file without a job")
        return findings + [
            Finding("scratch file of no known kind", key) for key in keys if _unknown(key)
        ]

    async def _strays(self, store: ObjectStore, keys: Sequence[str], problem: str) -> list[Finding]:
        """Look again at what seemed to be nobody's."""
        still = [key for key in await self._orphans(keys) if await _is_there(store, key)]
        return [Finding(problem, key) for key in still]

    async def _orphans(self, keys: Iterable[str]) -> list[str]:
        left, found = iter(keys), []
        while batch := list(islice(left, BATCH)):
            async with self.sessions() as session:
                found += await orphans_among(session, batch)
        return found

    async def _altered(self, items: Iterable[StoredItem]) -> list[Finding]:
        """Compare bytes; what is missing was found before."""
        return [
            Finding(problem, item.key)
            for item in items
            if (problem := await self._problem_inside(item)) and await self._is_pointed_at(item.key)
        ]

    async def _problem_inside(self, item: StoredItem) -> str | None:
        if item.checksum is None:
            return None
        try:
            checksum = await self._checksum(item.key)
        except ObjectNotFound:
            return None
        except StorageError:
            return _UNREADABLE
        return None if checksum == item.checksum else "object with other bytes"

    async def _checksum(self, key: str) -> str:
        digest = hashlib.sha256()
        async with self.storage.open_file(key) as opened:
            async for chunk in opened.chunks:
                digest.update(chunk)
        return digest.hexdigest()

    async def _is_pointed_at(self, key: str) -> bool:
        async with self.sessions() as session:
            return await is_pointed_at(session, key)

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


async def _is_there(store: ObjectStore, key: str) -> bool:
    """Whether the object is there, or may be: a store that cannot tell is no proof that it went."""
    try:
        await store.stat_file(key)
    except ObjectNotFound:
        return False
    except StorageError:
        pass
    return True


def _fits(item: StoredItem, found: ObjectInfo | None) -> bool:
    return found is not None and item.size_bytes in (None, found.size_bytes)


def _unknown(key: str) -> bool:
    return lecture_of(key) is None and document_of(key) is None
