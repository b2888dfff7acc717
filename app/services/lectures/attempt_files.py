"""The files of a lecture's attempts: whose they are, who goes on with them, and when they go.

While an attempt runs, its files carry its number and a part of its token.  What it has fetched when
it ends in order but unfinished is kept under a name that does not, and the next attempt takes it
from there.  A worker that was killed leaves its files as they are; the next attempt looks for them.

A worker that was taken over touches no file of its successor.  What is kept is kept and taken under
the lecture's row lock and the lease; of the others' files only those with a lower number are taken.
"""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

from app.ingest.fetch.part import PART_SUFFIXES, hand_over, is_part
from app.services.kernel.storage_keys import attempt_of, kept_stem
from app.storage.protocol import LocalFiles, ObjectStore


def kept_keys(lecture_id: UUID) -> list[str]:
    """Return the keys of what may have been kept."""
    return [f"{kept_stem(lecture_id)}{suffix}" for suffix in PART_SUFFIXES]


async def keep(scratch: LocalFiles, lecture_id: UUID, stem: str) -> None:
    """Keep the attempt's part, if there is one, for the next attempt."""
    await _pass_on(scratch, stem, kept_stem(lecture_id))


async def take_kept(scratch: LocalFiles, lecture_id: UUID, stem: str) -> None:
    """Go on, under this attempt's stem, with what was kept."""
    await _pass_on(scratch, kept_stem(lecture_id), stem)


async def take_from_killed(scratch: LocalFiles, lecture_id: UUID, attempt: int, stem: str) -> None:
    """Take over the parts that killed attempts before have left, and delete the rest of theirs."""
    async for key in _left(scratch, lecture_id, attempt):
        if key.startswith(f"{stem}."):
            continue
        if is_part(key):
            await asyncio.to_thread(hand_over, scratch, key, stem)
        else:
            await scratch.delete_file(key)


async def discard_all(store: ObjectStore, lecture_id: UUID, attempt: int) -> None:
    """Delete whatever attempts up to this one have left, but not what was kept."""
    async for key in _left(store, lecture_id, attempt):
        await store.delete_file(key)


async def _left(store: ObjectStore, lecture_id: UUID, attempt: int) -> AsyncIterator[str]:
    """Yield the keys of temporary files, none of them a successor's: that has a higher number."""
    async for found in store.list_files(f"audio/{lecture_id}_source."):
        number = attempt_of(found.key)
        if number is not None and 0 < number <= attempt:
            yield found.key


async def _pass_on(scratch: LocalFiles, old: str, new: str) -> None:
    for suffix in PART_SUFFIXES:
        await asyncio.to_thread(hand_over, scratch, f"{old}{suffix}", new)
