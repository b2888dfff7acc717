"""The sweep: what crashes and lost links leave behind goes, after a grace.

It is a job of the ledger like any other, so one worker at a time does it, and it queues itself
again when it is done.  What it removes: items that nobody is linked to, objects without a row,
half-written files, and old closed jobs.  Rows whose object is missing are only reported.  What
cannot be removed is logged, and keeps nothing else from being swept.  A scratch folder that is a
machine's own is swept by that machine's workers (`store_sweep.sweep_forever`).
"""

from datetime import timedelta
from uuid import UUID

import structlog
from sqlalchemy import exists, func, select

from app.db import ledger
from app.db.ledger import Lease
from app.domain import JobKind, JobState
from app.errors import ObjectNotFound
from app.services.kernel.jobs import JobHandler
from app.services.kernel.links import Shared
from app.services.kernel.objects import delete_objects
from app.services.kernel.stored import Stored
from app.services.kernel.unit_of_work import Work
from app.services.upkeep.inventory import is_pointed_at, stored_items
from app.services.upkeep.registry import STORED
from app.services.upkeep.store_sweep import StoreSweep, going_on, interval_of
from app.storage.protocol import ObjectStore

log = structlog.get_logger()

SWEEP_SUBJECT = UUID(int=0)
KEEP_CLOSED_JOBS_FOR = timedelta(days=7)
_MAX_ITEMS = 1000


async def plan_sweep(work: Work) -> None:
    """Put the sweep into the ledger, where it stays; any number of workers may do so."""
    async with work.begin() as unit:
        await ledger.open_job(unit.session, JobKind.SWEEP, SWEEP_SUBJECT, None)


class Sweep(JobHandler):
    """What a worker does with the claimed sweep."""

    kind = JobKind.SWEEP

    def __init__(self, work: Work, storage: ObjectStore, grace_seconds: float) -> None:
        super().__init__(work)
        self._storage = storage
        self._objects = StoreSweep(work, storage, grace_seconds)
        self._grace = timedelta(seconds=grace_seconds)
        self._interval = timedelta(seconds=interval_of(grace_seconds))

    async def run(self, lease: Lease) -> str:
        """Sweep once, and queue the next one."""
        for stage in (self._unlinked, self._stored):
            with going_on("sweep_stage_failed", stage=stage.__name__):
                await stage()
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
            await ledger.requeue(unit.session, lease, delay=delay, attempt=0, forgive_crashes=True)

    async def _unlinked(self) -> None:
        """Remove what nobody has been linked to for the grace."""
        for stored in STORED:
            if stored.shared is None:
                continue
            table, alone = stored.table, ~exists().where(stored.shared.linked_id == stored.table.id)
            old = select(table.id).where(alone, table.updated_at < func.now() - self._grace)
            async with self._work.sessions() as session:
                ids = (await session.scalars(old.limit(_MAX_ITEMS))).all()
            for id_ in ids:
                with going_on(f"{stored.name}_not_swept", id=str(id_)):
                    await self._remove(stored, stored.shared, id_)

    async def _remove(self, stored: Stored, shared: Shared, id_: UUID) -> None:
        keys: list[str] = []
        async with self._work.begin() as unit:
            row = await unit.session.get(stored.table, id_, with_for_update=True)
            # Looked at again under the lock: a link may have come since.
            if row and not await unit.session.scalar(
                select(exists().where(shared.linked_id == id_))
            ):
                keys = await shared.remove(unit, [row])
                log.info(f"swept_{stored.name}", id=str(id_))
        await delete_objects(self._storage, keys)

    async def _stored(self) -> None:
        """Sweep the objects; log the rows without one: only an operator knows what to do there."""
        seen = await self._objects.run()
        if seen is None:
            return
        async with self._work.sessions() as session:
            missing = [item.key async for item in stored_items(session) if item.key not in seen]
        for key in missing:
            with going_on("object_not_looked_at", key=key):
                if await self._exists(key):
                    continue
                async with self._work.sessions() as session:
                    if await is_pointed_at(session, key):
                        log.error("row_without_object", key=key)

    async def _exists(self, key: str) -> bool:
        try:
            await self._storage.stat_file(key)
        except ObjectNotFound:
            return False
        return True
