"""The sweep: what crashes and lost links leave behind goes, after a grace.

It is a job of the ledger like any other, so one worker at a time does it, and it queues itself
again when it is done.  What it removes: items that nobody is linked to, objects without a row,
half-written files, and old closed jobs.  Rows whose object is missing are only reported.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol, runtime_checkable
from uuid import UUID

import structlog
from sqlalchemy import Select, exists, func, select

from app.db import ledger
from app.db.ledger import Lease
from app.db.models import Document, Lecture, UserDocument, UserLecture
from app.domain import JobKind, JobState
from app.errors import ObjectNotFound
from app.services.inventory import (
    BATCH,
    is_pointed_at,
    lecture_of,
    orphans_among,
    stored_items,
)
from app.services.removal import delete_objects, remove_document, remove_lecture
from app.services.unit_of_work import Work
from app.storage.protocol import LocalFiles, ObjectInfo, ObjectStore

log = structlog.get_logger()

SWEEP_SUBJECT = UUID(int=0)
MIN_INTERVAL_SECONDS = 1.0
MAX_INTERVAL_SECONDS = 300.0
KEEP_CLOSED_JOBS_FOR = timedelta(days=7)
_MAX_ITEMS = 1000


@runtime_checkable
class HasPartials(Protocol):
    """A store that can tell what was being written when its process died."""

    def list_partials(self) -> AsyncIterator[ObjectInfo]:
        """Yield them."""
        ...

    async def delete_partial(self, key: str) -> None:
        """Delete one of them."""
        ...


async def plan_sweep(work: Work) -> None:
    """Put the sweep into the ledger, where it stays; any number of workers may do so."""
    async with work.begin() as unit:
        await ledger.open_job(unit.session, JobKind.SWEEP, SWEEP_SUBJECT, None)


class Sweep:
    """What a worker does with the claimed sweep."""

    kind = JobKind.SWEEP

    def __init__(
        self, work: Work, storage: ObjectStore, scratch: LocalFiles, grace_seconds: float
    ) -> None:
        self._work = work
        self._stores = [storage] if scratch is storage else [storage, scratch]
        self._storage = storage
        self._grace = timedelta(seconds=grace_seconds)
        interval = min(max(grace_seconds / 4, MIN_INTERVAL_SECONDS), MAX_INTERVAL_SECONDS)
        self._interval = timedelta(seconds=interval)

    async def run(self, lease: Lease) -> str:
        """Sweep once, and queue the next one."""
        await self._unlinked_lectures()
        await self._unlinked_documents()
        for store in self._stores:
            seen = await self._orphans(store)
            if store is self._storage:
                await self._report_missing(seen)
            if isinstance(store, HasPartials):
                await self._partials(store)
        await self._requeue(lease, self._interval)
        return JobState.DONE

    async def abandon(self, lease: Lease) -> None:
        """Try again at the next interval; the fault is in the log."""
        await self._requeue(lease, self._interval)

    async def hand_back(self, lease: Lease) -> None:
        """Leave it to another worker."""
        await self._requeue(lease, timedelta(0))

    async def _requeue(self, lease: Lease, delay: timedelta) -> None:
        async with self._work.begin() as unit:
            await ledger.prune(unit.session, KEEP_CLOSED_JOBS_FOR)
            # Crashes are forgiven: over the months, three workers will die in a sweep.
            await ledger.requeue(unit.session, lease, delay=delay, attempt=0, crashes=0)

    async def _unlinked_lectures(self) -> None:
        alone = ~exists().where(UserLecture.lecture_id == Lecture.id)
        old = select(Lecture.id).where(alone, Lecture.updated_at < func.now() - self._grace)
        for lecture_id in await self._ids(old):
            keys: list[str] = []
            async with self._work.begin() as unit:
                lecture = await unit.session.get(Lecture, lecture_id, with_for_update=True)
                # Looked at again under the lock: a link may have come since.
                mine = select(Lecture.id).where(alone, Lecture.id == lecture_id)
                if lecture and await unit.session.scalar(mine):
                    keys = await remove_lecture(unit, lecture)
                    log.info("swept_lecture", lecture_id=str(lecture_id))
            await delete_objects(self._storage, keys)

    async def _unlinked_documents(self) -> None:
        alone = ~exists().where(UserDocument.document_id == Document.id)
        old = select(Document.id).where(alone, Document.updated_at < func.now() - self._grace)
        for document_id in await self._ids(old):
            keys: list[str] = []
            async with self._work.begin() as unit:
                document = await unit.session.get(Document, document_id, with_for_update=True)
                mine = select(Document.id).where(alone, Document.id == document_id)
                if document and await unit.session.scalar(mine):
                    keys = await remove_document(unit, document)
                    log.info("swept_document", document_id=str(document_id))
            await delete_objects(self._storage, keys)

    async def _ids(self, query: Select[UUID]) -> Sequence[UUID]:
        async with self._work.sessions() as session:
            return (await session.scalars(query.limit(_MAX_ITEMS))).all()

    async def _orphans(self, store: ObjectStore) -> set[str]:
        """Delete objects that no row has, unless they are young or an open job may need them.

        Returns the keys of all that were there.
        """
        seen: set[str] = set()
        old: list[str] = []
        async for found in store.list_files():
            seen.add(found.key)
            if self._is_old(found):
                old.append(found.key)
        for start in range(0, len(old), BATCH):
            async with self._work.sessions() as session:
                orphans = await orphans_among(session, old[start : start + BATCH])
            for key in orphans:
                await self._delete_orphan(store, key)
        return seen

    def _is_old(self, found: ObjectInfo) -> bool:
        return datetime.now(UTC) - found.modified_at > self._grace

    async def _delete_orphan(self, store: ObjectStore, key: str) -> None:
        """Delete the object under its lecture's row lock, so that no attempt puts it meanwhile."""
        async with self._work.begin() as unit:
            mine = select(Lecture.id).where(Lecture.id == lecture_of(key))
            await unit.session.execute(mine.with_for_update())
            if await orphans_among(unit.session, [key]):
                await store.delete_file(key)
                log.info("swept_object", key=key)

    async def _report_missing(self, seen: set[str]) -> None:
        """Log the rows that point at nothing; only an operator knows what to do about them."""
        async with self._work.sessions() as session:
            missing = [item.key async for item in stored_items(session) if item.key not in seen]
        for key in missing:
            if not await self._exists(key) and await self._is_pointed_at(key):
                log.error("row_without_object", key=key)

    async def _exists(self, key: str) -> bool:
        try:
            await self._storage.stat_file(key)
        except ObjectNotFound:
            return False
        return True

    async def _is_pointed_at(self, key: str) -> bool:
        async with self._work.sessions() as session:
            return await is_pointed_at(session, key)

    async def _partials(self, store: HasPartials) -> None:
        async for found in store.list_partials():
            if self._is_old(found):
                await store.delete_partial(found.key)
                log.info("swept_partial", key=found.key)
