"""One store's part of the sweep: objects without a row, and files that were never finished.

In our own folders everything without a row is such an object, whatever its name
(`inventory.is_ours`); what lies elsewhere is somebody else's.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Protocol, runtime_checkable

import structlog
from sqlalchemy import select

from app.db.engine import IDLE_SECONDS
from app.db.outages import is_outage
from app.errors import StorageError
from app.services.kernel.unit_of_work import Work
from app.services.upkeep.inventory import BATCH, orphans_among, owner_of
from app.storage.protocol import ObjectInfo, ObjectStore

log = structlog.get_logger()

MIN_INTERVAL_SECONDS = 1.0
MAX_INTERVAL_SECONDS = 300.0
DELETE_SECONDS = IDLE_SECONDS * 0.8
"""A store that takes longer would have the server end the transaction that the deletion is in."""


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


@contextmanager
def going_on(event: str, **what: str) -> Iterator[None]:
    """Log what goes wrong in the block, and go on behind it: one thing must not keep all others.

    Only a database that is away goes through; without it there is nothing to judge by.
    """
    try:
        yield
    except Exception as error:
        if is_outage(error):
            raise
        log.exception(event, **what)


class StoreSweep:
    """Removes what is older than the grace and is nobody's.  Two may run over one store at once.

    What cannot be removed is logged and left to the next run.
    """

    def __init__(self, work: Work, store: ObjectStore, grace_seconds: float) -> None:
        self._work = work
        self._store = store
        self._grace = timedelta(seconds=grace_seconds)

    async def run(self) -> set[str] | None:
        """Sweep once; return the keys of all objects that were there, or None where some may miss.

        Raises the database's errors where it is away.
        """
        seen: set[str] = set()
        old: list[str] = []
        listed = False
        with going_on("store_not_listed"):
            async for found in self._store.list_all():
                seen.add(found.key)
                if self._is_old(found):
                    old.append(found.key)
            listed = True
        await self._orphans(old)
        if isinstance(self._store, HasPartials):
            with going_on("partials_not_listed"):
                await self._partials(self._store)
        return seen if listed else None

    async def _orphans(self, keys: Sequence[str]) -> None:
        """Delete those of the objects that no row has, unless an open job may need them."""
        for start in range(0, len(keys), BATCH):
            async with self._work.sessions() as session:
                orphans = await orphans_among(session, keys[start : start + BATCH])
            for key in orphans:
                with going_on("object_not_swept", key=key):
                    await self._delete_orphan(key)

    def _is_old(self, found: ObjectInfo) -> bool:
        return datetime.now(UTC) - found.modified_at > self._grace

    async def _delete_orphan(self, key: str) -> None:
        """Delete the object under its owner's row lock, so that no attempt puts it meanwhile."""
        async with self._work.begin() as unit:
            if owner := owner_of(key):
                stored, id_ = owner
                mine = select(stored.table.id).where(stored.table.id == id_)
                await unit.session.execute(mine.with_for_update())
            if await orphans_among(unit.session, [key]):
                await self._delete(key)
                log.info("swept_object", key=key)

    async def _delete(self, key: str) -> None:
        try:
            async with asyncio.timeout(DELETE_SECONDS):
                await self._store.delete_any(key)
        except TimeoutError as error:
            raise StorageError("The store takes too long to delete an object.") from error

    async def _partials(self, store: HasPartials) -> None:
        async for found in store.list_partials():
            if self._is_old(found):
                with going_on("partial_not_swept", key=found.key):
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
