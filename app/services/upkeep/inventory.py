"""Rows against objects: what the store has that no row knows, and the other way round.

The sweep and `studybuddy doctor` both judge by this; what there is to judge is in `registry`.
"""

import re
from collections.abc import AsyncIterator, Collection
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.db.models import Job
from app.domain import JobState
from app.services.kernel.stored import Stored, StoredItem
from app.services.upkeep.registry import STORED
from app.storage.protocol import is_key

BATCH = 500
OPEN = (JobState.QUEUED, JobState.RUNNING)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

T = TypeVar("T")


def is_ours(name: str) -> bool:
    """Tell whether it lies in one of our folders, at any depth, whatever its name."""
    return any(name.startswith(stored.folders) for stored in STORED)


def owner_of(name: str) -> tuple[Stored, UUID] | None:
    """Return whose object this can be, or a copy or an attempt's file: the id is in the name."""
    stored = next((each for each in STORED if name.startswith(each.folders)), None)
    match = _UUID.search(name)
    return (stored, UUID(match[0])) if stored and match else None


async def orphans_among(session: AsyncSession, keys: Collection[str]) -> list[str]:
    """Return the names in our folders that no row points at and that no open job may need."""
    owners = {key: owner_of(key) for key in keys if is_ours(key)}
    known: set[str] = set()
    at_work: set[UUID] = set()
    for stored in STORED:
        ids = {owner[1] for owner in owners.values() if owner and owner[0] is stored}
        known |= await _keys(session, stored, _among(stored.table.id, ids))
        # Of rows that are there: what one has left that was deleted may go.
        jobs = select(Job.subject_id).join(stored.table, stored.table.id == Job.subject_id)
        jobs = jobs.where(Job.kind == stored.job, Job.state.in_(OPEN), _among(Job.subject_id, ids))
        at_work |= set(await session.scalars(jobs))
    left = [
        key
        for key, owner in owners.items()
        if key not in known and not (owner and owner[1] in at_work)
    ]
    pointed_at = await _pointed_at(session, left)
    return [key for key in left if key not in pointed_at]


async def stored_items(session: AsyncSession) -> AsyncIterator[StoredItem]:
    """Yield every object that some row points at."""
    for stored in STORED:
        query: Select[Any] = select(*stored.keys, *stored.known)
        async for row in await session.stream(query.execution_options(yield_per=BATCH)):
            for item in stored.items(row):
                yield item


async def is_pointed_at(session: AsyncSession, key: str) -> bool:
    """Whether a row still points at the object."""
    if owner := owner_of(key):
        stored, id_ = owner
        if key in await _keys(session, stored, stored.table.id == id_):
            return True
    return bool(await _pointed_at(session, [key]))


async def _pointed_at(session: AsyncSession, names: Collection[str]) -> set[str]:
    """Return those that some row points at, whatever its id; reads the tables whole.

    So it is for the few that the ids in their names do not account for.
    """
    keys = [name for name in names if is_key(name)]
    found: set[str] = set()
    for stored in STORED if keys else ():
        found |= await _keys(session, stored, or_(*(_among(each, keys) for each in stored.keys)))
    return found


async def _keys(session: AsyncSession, stored: Stored, which: ColumnElement[bool]) -> set[str]:
    query: Select[Any] = select(*stored.keys).where(which)
    return {
        key
        for row in await session.execute(query)
        for named in row
        if named
        for key in (named, *stored.beside(named))
    }


def _among(column: InstrumentedAttribute[T], values: Collection[object]) -> ColumnElement[bool]:
    return column == func.any(list(values))
