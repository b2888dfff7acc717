"""What every object store promises, whatever lies behind it.

Keys are logical (``audio/{id}.m4a``) and serve unchanged as S3 object keys; they are never paths.
Every backend raises the same errors: `ObjectNotFound`, `InvalidKey`, `StorageFull`, and
`StorageError` for anything else; none of their messages carries a path or a host.
"""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from app.errors import InvalidKey

# A component has at most 255 characters, as a file name has.
_NAME = r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]{0,254}"
_KEY = re.compile(f"{_NAME}(/{_NAME})*")
_MAX_KEY_CHARACTERS = 512


@dataclass(frozen=True, slots=True)
class StoredFileMeta:
    """What was just stored: its key, its size, and the SHA-256 (hex) of its bytes."""

    key: str
    size_bytes: int
    checksum: str


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store says of an object that it has."""

    key: str
    size_bytes: int
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """An object opened for reading: the whole object's size, and the bytes asked for."""

    size_bytes: int
    modified_at: datetime
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Presentation:
    """The headers with which an object is to be served, whoever asks for it."""

    content_type: str
    content_disposition: str
    cache_control: str


ReadMethod = Literal["GET", "HEAD"]


class ObjectStore(Protocol):
    """Named byte objects.  Safe for concurrent use by any number of tasks."""

    async def store_file(self, key: str, chunks: AsyncIterator[bytes]) -> StoredFileMeta:
        """Store the stream under the key, replacing what is there, and return what was stored.

        Atomic: the object is visible whole or not at all, and durable on return.  Where the
        stream raises, that error passes through and nothing is left.  Memory stays flat.
        """
        ...

    def open_file(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AbstractAsyncContextManager[OpenedFile]:
        """Open the bytes ``start`` to ``end`` (exclusive; None is the object's end).

        What lies beyond the object's end is left out: such a range yields fewer bytes, or none.
        """
        ...

    async def stat_file(self, key: str) -> ObjectInfo:
        """Return the object's size and time of last write; `ObjectNotFound` where it is none."""
        ...

    async def get_file_url(
        self,
        key: str,
        expires_seconds: int,
        *,
        method: ReadMethod = "GET",
        presented_as: Presentation | None = None,
    ) -> str | None:
        """Return a presigned URL for the method, or None where the backend has no such thing.

        The presentation is part of what is signed: who holds the URL cannot change it.
        """
        ...

    async def move_file(self, key: str, new_key: str) -> None:
        """Give the object another key, replacing what is there; no byte passes through here.

        The new key holds one whole object at any time, and durably on return.  A failure can leave
        the object under both.  `ObjectNotFound` where there is none.
        """
        ...

    async def delete_file(self, key: str) -> None:
        """Delete the object; deleting a missing one succeeds."""
        ...

    async def delete_files(self, keys: Sequence[str]) -> None:
        """Delete the objects, in as few requests as can be; missing ones are left alone."""
        ...

    def list_files(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose key starts with the prefix, in no particular order."""
        ...

    def list_all(self) -> AsyncIterator[ObjectInfo]:
        """Yield the objects and whatever lies among them, under names that no key may have.

        Such names are for `delete_any` alone.  What holds no bytes, a link say, has size 0.
        """
        ...

    async def delete_any(self, name: str) -> None:
        """Delete what `list_all` has told of, object or not; deleting a missing one succeeds.

        `InvalidKey` where the name could lead out of the store.
        """
        ...

    async def check(self) -> None:
        """Raise `StorageError` where the store cannot be used right now (for readiness)."""
        ...

    async def close(self) -> None:
        """Release what is held."""
        ...


class LocalFiles(ObjectStore, Protocol):
    """A store whose objects are files of this machine: where media tools need a path."""

    def path_of(self, key: str) -> Path:
        """Return where the object is or would be; its folder exists."""
        ...


def is_key(name: str) -> bool:
    """Tell whether an object can have that name."""
    return len(name) <= _MAX_KEY_CHARACTERS and _KEY.fullmatch(name) is not None


def checked_key(key: str) -> str:
    """Return the key, or raise `InvalidKey` where it could escape a folder or a bucket prefix."""
    if not is_key(key):
        raise InvalidKey
    return key


def checked_name(name: str) -> str:
    """Return the name, a key or not, or raise `InvalidKey` where it could lead out of a store."""
    if "\0" in name or any(part in {"", ".", ".."} for part in name.split("/")):
        raise InvalidKey
    return name


def checked_prefix(prefix: str) -> str:
    """Return the prefix, or raise `InvalidKey` where no key can begin with it."""
    checked_key(f"{prefix}x")
    return prefix


def checked_range(start: int, end: int | None) -> None:
    """Raise `ValueError` for a range that does not count from the object's start."""
    if start < 0 or (end is not None and end < 0):
        raise ValueError("a range counts from the object's start")
