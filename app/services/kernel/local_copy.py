"""An object as a file of this machine, for what reads files."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from app.storage.protocol import LocalFiles, ObjectStore


@asynccontextmanager
async def as_local_file(
    storage: ObjectStore, scratch: LocalFiles, key: str, copy: str
) -> AsyncIterator[Path]:
    """Lend the object itself where scratch is the storage, else a copy under that key of scratch.

    Raises `ObjectNotFound` where there is no such object.
    """
    if scratch is storage:
        await storage.stat_file(key)
        yield scratch.path_of(key)
        return
    try:
        async with storage.open_file(key) as opened:
            await scratch.store_file(copy, opened.chunks)
        yield scratch.path_of(copy)
    finally:
        await scratch.delete_file(copy)
