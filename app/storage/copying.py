"""Copies one store's objects into another: concurrent, resumable, and verified byte by byte."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import Enum

from app.errors import ObjectNotFound, StorageError
from app.storage.protocol import ObjectInfo, ObjectStore, StoredFileMeta


class Outcome(Enum):
    """What became of one object."""

    COPIED = "copied"
    """Written, or in a dry run: to be written."""
    THERE = "there already"
    GONE = "deleted meanwhile"
    """At the source, by whoever uses it."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Copied:
    """One object's result; ``problem`` says why it failed."""

    info: ObjectInfo
    outcome: Outcome
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class CopyJob:
    """What to copy, and how carefully.

    An object is left out where the target has one of that key and size, written no earlier than
    the source's.  With ``compare`` their bytes must agree too, which reads both.
    """

    source: ObjectStore
    target: ObjectStore
    concurrency: int = 8
    dry_run: bool = False
    compare: bool = False
    is_left_out: Callable[[str], bool] = field(default=lambda key: False)

    async def list_source(self) -> list[ObjectInfo]:
        """Return the objects to look at."""
        listed = [info async for info in self.source.list_files()]
        return [info for info in listed if not self.is_left_out(info.key)]

    async def run(self, infos: list[ObjectInfo]) -> AsyncIterator[Copied]:
        """Copy those and yield each result as it comes; a failure does not stop the others.

        Holds 40 bytes or so for each object of the target, and `concurrency` streams.
        """
        there = {info.key: info async for info in self.target.list_files()}
        waiting = iter(infos)
        running: set[asyncio.Task[Copied]] = set()
        try:
            while True:
                for info in waiting:
                    running.add(asyncio.create_task(self._copy(info, there.get(info.key))))
                    if len(running) >= self.concurrency:
                        break
                if not running:
                    return
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _copy(self, info: ObjectInfo, there: ObjectInfo | None) -> Copied:
        try:
            if there is not None and await self._is_same(info, there):
                return Copied(info, Outcome.THERE)
            if not self.dry_run:
                await self._write(info.key)
        except StorageError as error:
            if await self._is_gone(info.key):
                return Copied(info, Outcome.GONE)
            return Copied(info, Outcome.FAILED, error.message)
        return Copied(info, Outcome.COPIED)

    async def _is_same(self, info: ObjectInfo, there: ObjectInfo) -> bool:
        if info.size_bytes != there.size_bytes:
            return False
        if self.compare:
            return await _digest(self.source, info.key) == await _digest(self.target, info.key)
        # S3 tells whole seconds.
        return info.modified_at.replace(microsecond=0) <= there.modified_at

    async def _write(self, key: str) -> None:
        async with self.source.open_file(key) as opened:
            stored = await self.target.store_file(key, opened.chunks)
            if stored.size_bytes != opened.size_bytes:
                raise StorageError("The source ended early.")
        if await _digest(self.target, key) != stored:
            raise StorageError("What was written is not what was read.")

    async def _is_gone(self, key: str) -> bool:
        try:
            await self.source.stat_file(key)
        except ObjectNotFound:
            return True
        except StorageError:
            return False
        return False


async def _digest(store: ObjectStore, key: str) -> StoredFileMeta:
    """Read the object back: its size, and the SHA-256 of its bytes."""
    digest, size_bytes = hashlib.sha256(), 0
    async with store.open_file(key) as opened:
        async for chunk in opened.chunks:
            await asyncio.to_thread(digest.update, chunk)
            size_bytes += len(chunk)
    return StoredFileMeta(key, size_bytes, digest.hexdigest())
