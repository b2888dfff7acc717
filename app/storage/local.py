"""Objects as files of one folder: atomic by rename, durable by fsync.

An object's file is the key under the root.  What is being written lies in a hidden folder there; a
crash leaves it behind, and `LocalStorage.list_partials` finds it.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from app.cancellation import ended
from app.storage import disk
from app.storage.batches import batched
from app.storage.protocol import (
    ObjectInfo,
    OpenedFile,
    Presentation,
    ReadMethod,
    StoredFileMeta,
    checked_key,
    checked_name,
    checked_prefix,
    checked_range,
)

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 8
_LISTED_AT_ONCE = 500


class LocalStorage:
    """`LocalFiles` on a folder; every blocking call but `path_of` runs in threads of its own.

    Files are 0600 and folders 0700.  Links below the root are never followed.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="storage")

    async def store_file(self, key: str, chunks: AsyncIterator[bytes]) -> StoredFileMeta:
        """Store the stream: hashed and written in threads while the next bytes arrive.

        A cancellation leaves nothing, unless it comes when the file is already being renamed.
        """
        checked_key(key)
        partial = disk.PartialFile(self._root)
        try:
            await self._run(partial.create)
            await self._write_all(partial, chunks)
            await self._run(partial.sync)
            return await self._run(partial.publish, key)
        finally:
            await self._run(partial.discard)

    @contextlib.asynccontextmanager
    async def open_file(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[OpenedFile]:
        """Open the object; the bytes read are those of one version, even if it is replaced."""
        checked_range(start, end)
        reader = disk.Reader(self._root, checked_key(key), start, end)
        try:
            found = await self._run(reader.open)
            yield OpenedFile(found.size_bytes, found.modified_at, self._chunks_of(reader))
        finally:
            await self._run(reader.close)

    async def stat_file(self, key: str) -> ObjectInfo:
        """Return the object's size and time of last write."""
        return await self._run(disk.stat_file, self._root, checked_key(key))

    async def get_file_url(
        self,
        key: str,
        expires_seconds: int,
        *,
        method: ReadMethod = "GET",
        presented_as: Presentation | None = None,
    ) -> str | None:
        """Return None: files of this machine have no URL of their own."""
        checked_key(key)
        return None

    async def move_file(self, key: str, new_key: str) -> None:
        """Rename the object, by whomever its file was written; it is synced first."""
        await self._run(disk.move_file, self._root, checked_key(key), checked_key(new_key))

    async def delete_file(self, key: str) -> None:
        """Delete the object; deleting a missing one succeeds."""
        await self._run(disk.delete_file, self._root, checked_key(key))

    async def delete_files(self, keys: Sequence[str]) -> None:
        """Delete the objects one by one; missing ones are left alone."""
        for key in keys:
            await self.delete_file(key)

    async def list_files(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose key starts with the prefix, in no particular order."""
        async for info in self._list(disk.walk_files(self._root, checked_prefix(prefix))):
            yield info

    async def list_all(self) -> AsyncIterator[ObjectInfo]:
        """Yield whatever lies in the folder, hidden files and links too.

        Not what is hidden in the root itself: that is a file system's own, or `list_partials`.
        """
        async for info in self._list(disk.walk_all(self._root)):
            yield info

    async def delete_any(self, name: str) -> None:
        """Delete one of `list_all` (a link itself), and the folders that it leaves empty.

        Those in the root stay: objects are put there.
        """
        await self._run(disk.delete_any, self._root, checked_name(name))

    async def list_partials(self) -> AsyncIterator[ObjectInfo]:
        """Yield what is being written, or was when its process died; for `delete_partial`.

        Whatever else somebody has put among it is told too.
        """
        async for info in self._list(disk.walk_partials(self._root)):
            yield info

    async def delete_partial(self, key: str) -> None:
        """Delete one of `list_partials`; deleting a missing one succeeds."""
        await self._run(disk.delete_partial, self._root, checked_name(key))

    def path_of(self, key: str) -> Path:
        """Return where the object is or would be; its folder exists."""
        with disk.errors_of_writing(), disk.folder_of(self._root, checked_key(key), create=True):
            return self._root / key

    async def check(self) -> None:
        """Raise `StorageError` where no file can be written."""
        probe = disk.PartialFile(self._root)
        try:
            await self._run(probe.create)
            await self._run(probe.append, [b"probe"])
        finally:
            await self._run(probe.discard)

    async def close(self) -> None:
        """End the threads, when what they do is done."""
        await asyncio.to_thread(self._threads.shutdown)

    def _start(
        self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> "asyncio.Future[T]":
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._threads, lambda: call(*args, **kwargs))

    async def _run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the call in a thread; where cancelled, it has ended all the same."""
        running = self._start(call, *args, **kwargs)
        try:
            return await asyncio.shield(running)
        finally:
            await ended(running)

    async def _write_all(self, partial: disk.PartialFile, chunks: AsyncIterator[bytes]) -> None:
        """Append the stream; one batch is written and hashed while the next is collected."""
        writing: asyncio.Future[None] | None = None
        try:
            async for batch in batched(chunks):
                if writing:
                    await asyncio.shield(writing)
                writing = self._start(partial.append, batch)
            if writing:
                await asyncio.shield(writing)
        finally:
            if writing:
                await ended(writing)

    async def _chunks_of(self, reader: disk.Reader) -> AsyncIterator[bytes]:
        while chunk := await self._run(reader.read):
            yield chunk

    async def _list(self, found: Iterator[ObjectInfo]) -> AsyncIterator[ObjectInfo]:
        while batch := await self._run(_take, found):
            for info in batch:
                yield info


def _take(found: Iterator[ObjectInfo]) -> list[ObjectInfo]:
    with disk.errors_of_reading():
        return list(itertools.islice(found, _LISTED_AT_ONCE))
