"""One store's part of the sweep: objects without a row, and files that were never finished."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Protocol, runtime_checkable

import structlog
from sqlalchemy import select

from app.db.models import Lecture
from app.services.inventory import BATCH, lecture_of, orphans_among
from app.services.unit_of_work import Work
from app.storage.protocol import ObjectInfo, ObjectStore

log = structlog.get_logger()

MIN_INTERVAL_SECONDS = 1.0
MAX_INTERVAL_SECONDS = 300.0


@runtime_checkable
class HasPartials(Protocol):
    """A store that can tell what was being written when its process died."""

    def list_partials(self) -> AsyncIterator[ObjectInfo]:
        """Yield them."""
        ...

    async def delete_partial(self, key: str) -> None:
        """Delete one of them."""
        ...


def interval_of(grace_seconds: float) -> float:
    """Return the seconds between two sweeps: what is left behind outlives its grace by little."""
    return min(max(grace_seconds / 4, MIN_INTERVAL_SECONDS), MAX_INTERVAL_SECONDS)


class StoreSweep:
    """Removes what is older than the grace and is nobody's.  Two may run over one store at once."""

    def __init__(self, work: Work, store: ObjectStore, grace_seconds: float) -> None:
        self._work = work
        self._store = store
        self._grace = timedelta(seconds=grace_seconds)

    async def run(self) -> set[str]:
        """Sweep once; return the keys of all objects that were there."""
        seen = await self._orphans()
        if isinstance(self._store, HasPartials):
            await self._partials(self._store)
        return seen

    async def _orphans(self) -> set[str]:
        """Delete objects that no row has, unless they are young or an open job may need them."""
        seen: set[str] = set()
        old: list[str] = []
        async for found in self._store.list_files():
            seen.add(found.key)
            if self._is_old(found):
                old.append(found.key)
        for start in range(0, len(old), BATCH):
            async with self._work.sessions() as session:
                orphans = await orphans_among(session, old[start : start + BATCH])
            for key in orphans:
                await self._delete_orphan(key)
        return seen

    def _is_old(self, found: ObjectInfo) -> bool:
        return datetime.now(UTC) - found.modified_at > self._grace

    async def _delete_orphan(self, key: str) -> None:
        """Delete the object under its lecture's row lock, so that no attempt puts it meanwhile."""
        async with self._work.begin() as unit:
            mine = select(Lecture.id).where(Lecture.id == lecture_of(key))
            await unit.session.execute(mine.with_for_update())
            if await orphans_among(unit.session, [key]):
                await self._store.delete_file(key)
                log.info("swept_object", key=key)

    async def _partials(self, store: HasPartials) -> None:
        async for found in store.list_partials():
            if self._is_old(found):
                await store.delete_partial(found.key)
                log.info("swept_partial", key=found.key)


async def sweep_forever(sweep: StoreSweep, interval_seconds: float) -> None:
    """Sweep a folder that is this machine's own: nobody else's worker can reach what is in it."""
    while True:
        try:
            await sweep.run()
        except Exception:
            log.exception("scratch_sweep_failed")  # It is due again soon; the worker works on.
        await asyncio.sleep(interval_seconds)
