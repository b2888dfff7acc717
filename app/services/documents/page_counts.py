"""The page-count job: a document's pages, counted once, in a child process."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import structlog
from sqlalchemy import select, update

from app.db import ledger
from app.db.ledger import Lease
from app.db.models import Document
from app.domain import JobKind, JobState
from app.errors import ObjectNotFound, StorageError
from app.ingest.sandbox.run import ChildKilled
from app.services.kernel.jobs import JobHandler, open_index_job
from app.services.kernel.local_copy import as_local_file
from app.services.kernel.retry_policy import MAX_ATTEMPTS, backoff
from app.services.kernel.unit_of_work import Work
from app.storage.protocol import LocalFiles, ObjectStore

log = structlog.get_logger()

CountPages = Callable[[Path], Awaitable[int | None]]


class PageCounts(JobHandler):
    """What a worker does with a claimed page count."""

    kind = JobKind.COUNT_PAGES

    def __init__(
        self, work: Work, storage: ObjectStore, scratch: LocalFiles, count: CountPages
    ) -> None:
        super().__init__(work)
        self._storage = storage
        self._scratch = scratch
        self._count = count

    async def run(self, lease: Lease) -> str:
        """Fill in the page count; a PDF too broken or too costly to parse keeps null."""
        key = await self._storage_key(lease.subject_id)
        try:
            pages = None if key is None else await self._count_object(key, lease)
        except ObjectNotFound:  # Deleted meanwhile, or on its way here from another storage.
            return await self._retry(lease)
        except (StorageError, OSError, ChildKilled):
            log.exception("page_count_failed", document_id=str(lease.subject_id))
            return await self._retry(lease)
        return await self._finish(lease, pages)

    async def abandon(self, lease: Lease) -> None:
        """Leave the page count null: the document stays available."""
        await self._finish(lease, None)

    async def _count_object(self, key: str, lease: Lease) -> int | None:
        copy = f"{key}.{lease.token.hex[:8]}"
        async with as_local_file(self._storage, self._scratch, key, copy) as path:
            return await self._count(path)

    async def _retry(self, lease: Lease) -> str:
        attempts = lease.attempt + 1
        if attempts >= MAX_ATTEMPTS:
            return await self._finish(lease, None)
        async with self._work.begin() as unit:
            delay = backoff(lease.attempt)
            await ledger.requeue(unit.session, lease, delay=delay, attempt=attempts)
        return "retried"

    async def _storage_key(self, document_id: UUID) -> str | None:
        async with self._work.sessions() as session:
            query = select(Document.storage_key).where(Document.id == document_id)
            return await session.scalar(query)

    async def _finish(self, lease: Lease, pages: int | None) -> str:
        async with self._work.begin() as unit:
            if pages is not None:
                counted = update(Document).where(Document.id == lease.subject_id)
                await unit.session.execute(counted.values(page_count=pages))
                await unit.wake_document(lease.subject_id)
            await open_index_job(unit, lease.subject_id, None)
            await ledger.finish(unit.session, lease)
        return JobState.DONE
