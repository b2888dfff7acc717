"""What is being fetched, kept where the next attempt can go on with it.

That is one after a kill, a hand-back or a failure that passes: whatever ends a lecture, or takes it
away, removes the part (`discard_part`).

Beside the part lies a note: what its bytes are of, in which version, and the part's inode; behind
that, where each piece ends, for sources that come in pieces.  One inode holds bytes of one version
alone, each written at its own place, and so do the ends: a worker that lost its lease and writes on
can only write what is there already, and whoever begins anew begins new inodes.
"""

import asyncio
import contextlib
import hashlib
import os
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

import structlog
from pydantic import TypeAdapter

from app.cancellation import in_thread
from app.errors import IngestFailed, NotReadyYet, StorageError
from app.ingest.model import Attempt
from app.ingest.sandbox.run import ChildKilled
from app.storage.batches import BATCH_BYTES, MAX_BATCH_CHUNKS
from app.storage.disk import errors_of_writing
from app.storage.protocol import LocalFiles

log = structlog.get_logger(__name__)

Extension = Literal["mp4", "ts"]
"""Of what a part becomes."""

_PART = ".part"
_NOTE = ".note"
PART_SUFFIXES = (_PART, _NOTE)
_END = struct.Struct(">Q")
_MAX_NOTE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Version:
    """One version of what a part's bytes are of.

    ``source`` names it (`source_name`), ``validator`` tells this version from others.
    ``size_bytes`` None: only the end will tell.  Such bytes come in pieces, and an attempt goes on
    after the last whole one; any other goes on after the last byte.
    """

    source: str
    validator: str
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """The object stored, and how many bytes this attempt took from the source for it.

    ``has_changed``: what the source had was another file, for all we know, when it was begun.
    """

    key: str
    size_bytes: int
    fetched_bytes: int
    has_changed: bool = False


@dataclass(frozen=True, slots=True)
class _Note:
    inode: int
    version: Version


_NOTES: TypeAdapter[_Note] = TypeAdapter(_Note)


def source_name(way: str, url: str) -> str:
    """Name a source by the way it is fetched, which decides what the bytes are, and by its URL.

    Signatures in the query change from answer to answer.
    """
    return f"{way}:{_address(url)}"


def is_of(source: str, url: str) -> bool:
    """Whether the source that is so named is what lies at the URL, whatever the way to it."""
    return source.partition(":")[2] == _address(url)


class PartFile:
    """The part of one attempt, named by the stem of its key.  Every call blocks.

    ``size_bytes`` is how much of it there is, ``ends`` where each of its pieces ends.
    """

    def __init__(self, scratch: LocalFiles, stem: str) -> None:
        self._part_path = scratch.path_of(f"{stem}{_PART}")
        self._note_path = scratch.path_of(f"{stem}{_NOTE}")
        self._part: int | None = None
        self._note: int | None = None
        self._ends_at = 0
        self.version: Version | None = None
        self.size_bytes = 0
        self.ends: list[int] = []

    @property
    def is_open(self) -> bool:
        """Whether there is something to append to."""
        return self._part is not None

    def find(self, source: str | None) -> Version | None:
        """Open what an attempt before left of the source; what it left of another stays as it is.

        None is any source.  What makes no sense is nothing.
        """
        with contextlib.suppress(OSError, ValueError):
            self._open_found(source)
            return self.version
        self.close()
        return None

    def begin(self, version: Version | None) -> None:
        """Open an empty part in place of any other; nobody can go on without a version."""
        with errors_of_writing():
            self.discard()
            self._part = _create(self._part_path)
            self.version = version
            if version is not None:
                self._note = _create(self._note_path)
                note = _NOTES.dump_json(_Note(os.fstat(self._part).st_ino, version)) + b"\n"
                self._ends_at = _write(self._note, note, 0)

    def append(self, batch: Sequence[bytes]) -> None:
        """Write the bytes that come next, each at its own place."""
        if self._part is None:
            raise ValueError("the part is not open")
        with errors_of_writing():
            for chunk in batch:
                self.size_bytes += _write(self._part, chunk, self.size_bytes)

    def append_piece(self, piece: bytes) -> None:
        """Write a whole piece, and then where it ends."""
        self.append([piece])
        if self._note is not None:
            with errors_of_writing():
                end = _END.pack(self.size_bytes)
                _write(self._note, end, self._ends_at + len(self.ends) * _END.size)
        self.ends.append(self.size_bytes)

    def publish(self, path: Path) -> None:
        """Make the part the file at the path; what lies behind its bytes is not of it."""
        if self._part is None:
            raise ValueError("the part is not open")
        with errors_of_writing():
            os.ftruncate(self._part, self.size_bytes)
            self._part_path.replace(path)
            self._note_path.unlink(missing_ok=True)
            self.close()

    def discard(self) -> None:
        """Close and remove what is there, whatever it is of."""
        self.close()
        with errors_of_writing():
            # In this order: no note outlives its part, whose inode's number may be given again.
            self._note_path.unlink(missing_ok=True)
            self._part_path.unlink(missing_ok=True)

    def leave(self) -> None:
        """Close, and leave what another attempt can go on with: bytes of a known version."""
        if self.version is not None and self.size_bytes:
            self.close()
        elif self.is_open:
            self.discard()

    def close(self) -> None:
        """Let go of what is open, and leave it where it is."""
        for file in (self._part, self._note):
            if file is not None:
                os.close(file)
        self._part = self._note = self.version = None
        self.size_bytes, self.ends = 0, []

    def _open_found(self, source: str | None) -> None:
        """Open part and note, or raise where they are not of the source."""
        self._note = os.open(self._note_path, os.O_RDWR | os.O_NOFOLLOW)
        self._part = os.open(self._part_path, os.O_WRONLY | os.O_NOFOLLOW)
        line, _, ends = os.pread(self._note, _MAX_NOTE_BYTES, 0).partition(b"\n")
        note = _NOTES.validate_json(line, strict=True)
        found = os.fstat(self._part)
        if note.inode != found.st_ino or source not in (None, note.version.source):
            raise ValueError("the part is of another source")
        self._ends_at = len(line) + 1
        self.version, self.size_bytes = note.version, found.st_size
        if note.version.size_bytes is None:
            self.ends = _ends_of_whole(ends, found.st_size)
            self.size_bytes = self.ends[-1] if self.ends else 0
        if not 0 < self.size_bytes <= (note.version.size_bytes or found.st_size):
            raise ValueError("the part has nothing of use, or too much")


class Part:
    """`PartFile` for a task: every call in a thread, and ended before it is let go."""

    def __init__(self, attempt: Attempt, file: PartFile) -> None:
        self._attempt = attempt
        self._file = file
        self._batch: list[bytes] = []
        self._batch_bytes = 0

    @property
    def is_open(self) -> bool:
        """Whether there is something to append to."""
        return self._file.is_open

    @property
    def size_bytes(self) -> int:
        """How much there is, with what is not written yet."""
        return self._file.size_bytes + self._batch_bytes

    @property
    def ends(self) -> Sequence[int]:
        """Where each of its pieces ends."""
        return self._file.ends

    async def find(self, source: str) -> Version | None:
        """Open what an attempt before left of the source, and return which version it is of."""
        version = await in_thread(self._file.find, source)
        if version is not None:
            log.info("part_found", way=source.partition(":")[0], size_bytes=self.size_bytes)
        return version

    async def begin(self, version: Version | None) -> None:
        """Open an empty part in place of any other; nobody can go on without a version."""
        self._batch, self._batch_bytes = [], 0
        await in_thread(self._file.begin, version)

    async def require(self, version: Version) -> None:
        """Go on with what was left of this very version, else begin anew."""
        if not self.is_open:
            await self.find(version.source)
        if self._file.version != version:
            await self.begin(version)

    async def append(self, chunk: bytes) -> None:
        """Take the bytes that come next, and write them when there are enough, or at the end."""
        self._batch.append(chunk)
        self._batch_bytes += len(chunk)
        if self._batch_bytes >= BATCH_BYTES or len(self._batch) >= MAX_BATCH_CHUNKS:
            await self._write()

    async def append_piece(self, piece: bytes) -> None:
        """Write a whole piece, after which a successor may go on."""
        await in_thread(self._file.append_piece, piece)

    async def publish(self, extension: Extension, fetched_bytes: int) -> FetchedFile:
        """Make the part the object ``{stem}.{extension}``; so many bytes are of this attempt."""
        published = FetchedFile(f"{self._attempt.stem}.{extension}", self.size_bytes, fetched_bytes)
        path = await asyncio.to_thread(self._attempt.scratch.path_of, published.key)
        await self._write()
        await in_thread(self._file.publish, path)
        return published

    async def leave(self) -> None:
        """Close, and leave what another attempt can go on with."""
        try:
            await self._write()
        except StorageError:  # Whoever leaves has an error of its own; what was written is sound.
            log.warning("part_left_short", exc_info=True)
        await in_thread(self._file.leave)

    async def discard(self) -> None:
        """Leave nothing."""
        self._batch, self._batch_bytes = [], 0
        await in_thread(self._file.discard)

    async def _write(self) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if batch:
            await in_thread(self._file.append, batch)


@contextlib.asynccontextmanager
async def open_part(attempt: Attempt) -> AsyncIterator[Part]:
    """Lend the attempt's part; what is open at the end, and so was not published, is removed.

    It stays, closed, where the block is cancelled or ends by a failure that passes.
    """
    file = await asyncio.to_thread(PartFile, attempt.scratch, attempt.stem)
    part = Part(attempt, file)
    try:
        yield part
    except BaseException as error:
        if _is_gone_on_after(error):
            await part.leave()
        raise
    finally:
        if part.is_open:
            await part.discard()


@contextlib.asynccontextmanager
async def tidied(attempt: Attempt) -> AsyncIterator[None]:
    """Leave, of what the attempt's part was or became, what is of use after the block.

    Where it succeeds, what was published; where it is cancelled or ends by a failure that passes,
    the part, whether or not it was opened; else nothing.
    """
    try:
        yield
        await discard_part(attempt.scratch, attempt.stem)
    except BaseException as error:
        for extension in get_args(Extension):
            await attempt.scratch.delete_file(f"{attempt.stem}.{extension}")
        if not _is_gone_on_after(error):
            await discard_part(attempt.scratch, attempt.stem)
        raise


async def begun_source(attempt: Attempt) -> str | None:
    """Return the name of the source of which an attempt before left a part to this one."""
    file = await asyncio.to_thread(PartFile, attempt.scratch, attempt.stem)
    try:
        version = await in_thread(file.find, None)
        return version.source if version else None
    finally:
        await in_thread(file.close)


async def discard_part(scratch: LocalFiles, stem: str) -> None:
    """Remove what is left of a part under the stem, whatever it is of."""
    file = await asyncio.to_thread(PartFile, scratch, stem)
    await in_thread(file.discard)


def is_part(key: str) -> bool:
    """Whether a key is one of a part's two files."""
    return key.endswith((_PART, _NOTE))


def hand_over(scratch: LocalFiles, key: str, stem: str) -> None:
    """Take a part's file over from an attempt that is gone, by renaming it.

    Part and note may be taken by different attempts: the note names the part's inode.
    """
    suffix = _PART if key.endswith(_PART) else _NOTE
    with errors_of_writing(), contextlib.suppress(FileNotFoundError):
        scratch.path_of(key).replace(scratch.path_of(f"{stem}{suffix}"))


def _is_gone_on_after(error: BaseException) -> bool:
    """Whether an attempt comes after the error, for which a part is of use.

    An `OSError` and a `ChildKilled` are this machine's trouble, which passes; an error of writing
    is a `StorageError`, and what may be badly written is not gone on with.
    """
    if isinstance(error, IngestFailed):
        return error.transient
    return isinstance(error, asyncio.CancelledError | NotReadyYet | OSError | ChildKilled)


def _address(url: str) -> str:
    parts = urlsplit(url)
    return hashlib.sha256(f"{parts.netloc.lower()}{parts.path}".encode()).hexdigest()


def _create(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)


def _write(file: int, content: bytes, offset: int) -> int:
    """Write all of it at the offset, and return how much that was."""
    rest = memoryview(content)
    while rest:
        written = os.pwrite(file, rest, offset)
        offset, rest = offset + written, rest[written:]
    return len(content)


def _ends_of_whole(ends: bytes, found_bytes: int) -> list[int]:
    """Return where the pieces end that are there; the last end may have been cut short."""
    whole = ends[: len(ends) - len(ends) % _END.size]
    told = [end for (end,) in _END.iter_unpack(whole)]
    if told != sorted(told):
        raise ValueError("pieces end in their order")
    return [end for end in told if end <= found_bytes]
