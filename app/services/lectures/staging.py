"""The finished audio on its way from scratch into its place in the storage.

It is brought beside its place first, which takes as long as it takes, and then moved there, which
takes a moment: only that is done under the lecture's row lock.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from app.services.kernel.objects import delete_objects
from app.storage.protocol import LocalFiles, ObjectStore

_READ_BYTES = 1024 * 1024


class StagedAudio:
    """An object beside its place."""

    def __init__(self, storage: ObjectStore, key: str, source: Path | None) -> None:
        self._storage = storage
        self._key = key
        self._source = source
        self._placed = False

    async def place(self, key: str) -> None:
        """Move the object into its place, once; the file that it is a copy of goes."""
        if self._placed:
            return
        await self._storage.move_file(self._key, key)
        if self._source is not None:
            await asyncio.to_thread(self._source.unlink, missing_ok=True)
        self._placed = True

    async def discard(self) -> None:
        """Delete the object where it was not placed; what fails is left to the sweep."""
        if not self._placed:
            await delete_objects(self._storage, [self._key])


@asynccontextmanager
async def staged_audio(
    storage: ObjectStore, scratch: LocalFiles, key: str
) -> AsyncIterator[StagedAudio]:
    """Bring the scratch object ``key`` into the storage, under the same key, while the block runs.

    Where scratch is the storage it is there already.
    """
    source = None if scratch is storage else scratch.path_of(key)
    staged = StagedAudio(storage, key, source)
    try:
        if source is not None:
            await storage.store_file(key, _read(source))
        yield staged
    finally:
        await staged.discard()


async def _read(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, _READ_BYTES):
            yield chunk
