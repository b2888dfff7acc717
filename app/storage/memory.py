"""Objects in the memory of this process: for tests and for tries without a disk."""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from app.errors import ObjectNotFound
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

_CHUNK_BYTES = 1024 * 1024


class MemoryStorage:
    """`ObjectStore` that forgets everything with its process, and holds whole objects."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, ObjectInfo]] = {}

    async def store_file(self, key: str, chunks: AsyncIterator[bytes]) -> StoredFileMeta:
        """Store the stream; visible at its end alone."""
        checked_key(key)
        content = b"".join([chunk async for chunk in chunks])
        self._objects[key] = (content, ObjectInfo(key, len(content), datetime.now(UTC)))
        return StoredFileMeta(key, len(content), hashlib.sha256(content).hexdigest())

    @contextlib.asynccontextmanager
    async def open_file(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[OpenedFile]:
        """Open the bytes ``start`` to ``end`` of the object as it is now."""
        checked_range(start, end)
        content, info = self._get(key)
        yield OpenedFile(info.size_bytes, info.modified_at, _chunked(content[start:end]))

    async def stat_file(self, key: str) -> ObjectInfo:
        """Return the object's size and time of last write."""
        return self._get(key)[1]

    async def get_file_url(
        self,
        key: str,
        expires_seconds: int,
        *,
        method: ReadMethod = "GET",
        presented_as: Presentation | None = None,
    ) -> str | None:
        """Return None: memory has no URL."""
        checked_key(key)
        return None

    async def move_file(self, key: str, new_key: str) -> None:
        """Give the object another key."""
        checked_key(new_key)
        content, info = self._get(key)
        self._objects[new_key] = (content, replace(info, key=new_key))
        if new_key != key:
            del self._objects[key]

    async def delete_file(self, key: str) -> None:
        """Delete the object; deleting a missing one succeeds."""
        self._objects.pop(checked_key(key), None)

    async def delete_files(self, keys: Sequence[str]) -> None:
        """Delete the objects; missing ones are left alone."""
        for key in keys:
            await self.delete_file(key)

    async def list_files(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose key starts with the prefix, as they are at the first step."""
        checked_prefix(prefix)
        for _, info in list(self._objects.values()):
            if info.key.startswith(prefix):
                yield info

    def list_all(self) -> AsyncIterator[ObjectInfo]:
        """Yield the objects: nothing else gets in here."""
        return self.list_files()

    async def delete_any(self, name: str) -> None:
        """Delete the object; deleting a missing one succeeds."""
        self._objects.pop(checked_name(name), None)

    async def check(self) -> None:
        """Return: memory is always there."""

    async def close(self) -> None:
        """Forget every object."""
        self._objects.clear()

    def _get(self, key: str) -> tuple[bytes, ObjectInfo]:
        try:
            return self._objects[checked_key(key)]
        except KeyError:
            raise ObjectNotFound from None


async def _chunked(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _CHUNK_BYTES):
        yield content[start : start + _CHUNK_BYTES]
