"""An HLS recording into one object: the audio rendition where there is one, segments in order.

Segments (MPEG-TS or fMP4) are fetched a few at a time, each retried by itself, decrypted where they
are AES-128, and written one after the other: the result plays as one file.  A segment is a piece of
the part that the next attempt goes on with.
"""

import asyncio
import hashlib
import math
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import structlog
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from app.domain import DownloadStage, LectureFailure
from app.errors import IngestFailed, NotReadyYet
from app.ingest.fetch import too_large
from app.ingest.guard import GuardedClient, origin_of
from app.ingest.part_file import Extension, FetchedFile, Version, open_part, source_name
from app.ingest.patience import PATIENCE, Patience, Retries
from app.ingest.playlist import MasterPlaylist, MediaPlaylist, Part, SegmentKey, parse_playlist
from app.ingest.protocols import MediaLocation, Progress, ReportProgress, Run
from app.ingest.sniffing import require_media
from app.storage.protocol import LocalFiles

log = structlog.get_logger(__name__)

_MAX_PLAYLIST_BYTES = 8 * 1024 * 1024
_MAX_SEGMENT_BYTES = 64 * 1024 * 1024
_MAX_CHOICES = 4
_IN_FLIGHT = 8
_MOST_BYTES_AHEAD = 32 * 1024 * 1024
_BOX_TYPES = frozenset({b"ftyp", b"moov", b"styp", b"free"})


@dataclass(frozen=True, slots=True)
class HlsStream:
    """The media playlist to fetch, and whether the master names it as an audio rendition."""

    location: MediaLocation
    playlist: MediaPlaylist
    is_rendition: bool

    def cookie_for(self, url: str) -> str | None:
        """Return the cookie where the URL is on the playlist's own origin, else None."""
        same = origin_of(url) == origin_of(self.location.url)
        return self.location.cookie_header if same else None


@dataclass(frozen=True, slots=True)
class FetchedStream:
    """The stored object, and where in it further runs begin (see `Run`)."""

    file: FetchedFile
    runs: tuple[Run, ...]


async def open_stream(client: GuardedClient, location: MediaLocation) -> HlsStream:
    """Return the media playlist with audio that is cheapest to fetch.

    Raises `NotReadyYet` where it has no end yet, and `IngestFailed`: NO_AUDIO where the master
    names no playlist with audio, SOURCE_NOT_FOUND where a playlist cannot be read.
    """
    playlist, is_rendition = await _load(client, location, location.url), False
    if isinstance(playlist, MasterPlaylist):
        playlist, is_rendition = await _first_of(client, location, playlist)
    if not playlist.ended:
        raise NotReadyYet("The recording is still live.")
    if not any(not (part.is_init or part.is_gap) for part in playlist.parts):
        raise _unreadable()
    gaps = sum(part.is_gap for part in playlist.parts)
    if playlist.discontinuities or gaps:
        log.info("hls_interrupted", discontinuities=playlist.discontinuities, gaps=gaps)
    return HlsStream(location, playlist, is_rendition)


async def fetch_stream(
    client: GuardedClient,
    stream: HlsStream,
    scratch: LocalFiles,
    key_stem: str,
    report: ReportProgress,
    *,
    max_bytes: int,
    patience: Patience = PATIENCE,
) -> FetchedStream:
    """Store all segments, in order, under ``{key_stem}.ts`` or, where they are fMP4, ``.mp4``.

    Goes on after the last whole segment that an attempt before left under the stem, where the
    playlist is the same.  What was fetched stays as `open_part` tells.
    """
    # In a thread: a playlist may name 50,000 parts.
    fingerprint = await asyncio.to_thread(_fingerprint, stream.playlist)
    version = Version(source_name("hls", stream.location.url), fingerprint, None)
    async with open_part(scratch, key_stem) as part:
        await part.require(version)
        if len(part.ends) > len(stream.playlist.parts):
            await part.begin(version)
        had = _Had(len(part.ends), part.size_bytes)
        segments = _Segments(client, stream, report, max_bytes, patience, had)
        async with aclosing(segments.bodies()) as bodies:
            async for body in bodies:
                await part.append_piece(body)
        runs = tuple(_runs(stream.playlist, part.ends))
        extension: Extension = "mp4" if stream.playlist.is_fragmented_mp4 else "ts"
        fetched_bytes = segments.received_bytes - had.size_bytes
        return FetchedStream(await part.publish(extension, fetched_bytes), runs)


async def _first_of(
    client: GuardedClient, location: MediaLocation, master: MasterPlaylist
) -> tuple[MediaPlaylist, bool]:
    """Return the first media playlist that can be had, and whether it is an audio rendition.

    Passing failures are not passed over.
    """
    failure = IngestFailed(LectureFailure.NO_AUDIO, "The recording has no audio.")
    for position, url in enumerate(master.audio_urls[:_MAX_CHOICES]):
        try:
            playlist = await _load(client, location, url)
        except IngestFailed as error:
            if error.transient:
                raise
            log.info("hls_choice_failed", choice=position, failure=error.failure.value)
            failure = failure if position else error
            continue
        if isinstance(playlist, MediaPlaylist):
            return playlist, position < master.renditions
    raise failure


async def _load(
    client: GuardedClient, location: MediaLocation, url: str
) -> MasterPlaylist | MediaPlaylist:
    same = origin_of(url) == origin_of(location.url)
    fetched = await client.read(
        "GET",
        url,
        max_bytes=_MAX_PLAYLIST_BYTES,
        cookie_header=location.cookie_header if same else None,
    )
    require_media(fetched.content_type, fetched.url, fetched.body)
    text = fetched.body.decode("utf-8-sig", errors="replace")
    if not text.lstrip().startswith("#EXTM3U"):
        raise _unreadable()
    return await parse_playlist(text, fetched.url)


def _runs(playlist: MediaPlaylist, ends: Sequence[int]) -> Iterator[Run]:
    """Yield where the discontinuities are, in the bytes of the parts that end there."""
    start_byte, start_seconds = 0, 0.0
    for part, end in zip(playlist.parts, ends, strict=True):
        if part.starts_run:
            yield Run(start_byte, start_seconds)
        start_byte, start_seconds = end, start_seconds + part.duration_seconds


def _fingerprint(playlist: MediaPlaylist) -> str:
    """Return what tells the playlist from one that would make another file.

    Signatures in queries change from answer to answer; they count only where nothing else tells
    the parts apart.
    """
    parts = [_unsigned(part) for part in playlist.parts]
    if len(set(parts)) < len(set(playlist.parts)):
        parts = list(playlist.parts)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _unsigned(part: Part) -> Part:
    key = part.key and replace(part.key, url=part.key.url.partition("?")[0])
    return replace(part, url=part.url.partition("?")[0], key=key)


@dataclass(frozen=True, slots=True)
class _Had:
    """What is there of the stream already."""

    parts: int
    size_bytes: int


class _Room:
    """The memory for parts that wait: all but the first in line stop where it is used up."""

    def __init__(self, first: int) -> None:
        self.first = first
        self._held: dict[int, int] = {}
        self._changed = asyncio.Condition()

    async def take(self, number: int, count: int) -> None:
        """Hold so many bytes more of a part, and wait until more may come."""
        self._held[number] = self._held.get(number, 0) + count
        async with self._changed:
            await self._changed.wait_for(lambda: number == self.first or self._has_room)

    def forget(self, number: int) -> int:
        """Hold nothing of a part that will be fetched again; return how much that was."""
        return self._held.pop(number, 0)

    async def advance(self) -> None:
        """Let go of the first in line; the next takes its place."""
        async with self._changed:
            self.forget(self.first)
            self.first += 1
            self._changed.notify_all()

    @property
    def _has_room(self) -> bool:
        return sum(self._held.values()) <= _MOST_BYTES_AHEAD


class _Segments:
    """A playlist's parts in order, from some part on, the next ones on their way meanwhile."""

    def __init__(
        self,
        client: GuardedClient,
        stream: HlsStream,
        report: ReportProgress,
        max_bytes: int,
        patience: Patience,
        had: _Had,
    ) -> None:
        self._client = client
        self._stream = stream
        self._report = report
        self._max_bytes = max_bytes
        self._retries = Retries(patience)
        self._first = had.parts
        self.received_bytes = had.size_bytes
        """What was there already, and what has arrived of it since; no byte counts twice."""
        parts = stream.playlist.parts[: had.parts]
        self._done_seconds = math.fsum(part.duration_seconds for part in parts)
        self._done_bytes = had.size_bytes
        self._room = _Room(had.parts)
        self._keys: dict[str, asyncio.Future[bytes]] = {}

    async def bodies(self) -> AsyncGenerator[bytes, None]:
        """Yield one part after the other, or raise.  The first is asked for alone."""
        upcoming = islice(enumerate(self._stream.playlist.parts), self._first, None)
        running = deque(self._start(*each) for each in islice(upcoming, 1))
        try:
            while running:
                body = await running[0]
                running.popleft()
                room = _IN_FLIGHT - len(running)
                running.extend(self._start(*each) for each in islice(upcoming, room))
                yield body
                await self._room.advance()
        finally:
            await _stop([*running, *self._keys.values()])

    def _start(self, number: int, part: Part) -> asyncio.Task[bytes]:
        return asyncio.create_task(self._part(number, part))

    async def _part(self, number: int, part: Part) -> bytes:
        """Fetch a part, again where that may help, and decrypt it."""
        if part.is_gap:
            return b""
        body = await self._retries.of(
            partial(self._fetch, number, part),
            self._client.limits.of(part.url),
            # The others may hold all places, and wait for the first in line.
            is_urgent=lambda: number == self._room.first,
        )
        self._done_seconds += part.duration_seconds
        self._done_bytes += len(body)
        return _decrypted(part, body, await self._key(part.key)) if part.key else body

    async def _fetch(self, number: int, part: Part) -> bytes:
        self.received_bytes -= self._room.forget(number)
        wanted = part.byte_range
        headers = {"Range": wanted.header} if wanted else None
        fetched = await self._client.read(
            "GET",
            part.url,
            max_bytes=_MAX_SEGMENT_BYTES,
            headers=headers,
            cookie_header=self._stream.cookie_for(part.url),
            expect_partial=wanted is not None,
            on_bytes=partial(self._arrived, number),
        )
        require_media(fetched.content_type, fetched.url, fetched.body)
        return fetched.body

    async def _arrived(self, number: int, count: int) -> None:
        self.received_bytes += count
        if self.received_bytes > self._max_bytes:
            raise too_large()
        total_bytes = self._total_bytes()
        await self._report(Progress(DownloadStage.FETCHING, self.received_bytes, total_bytes))
        await self._room.take(number, count)

    def _total_bytes(self) -> int | None:
        """Return the size where the playlist tells it, else what the segments so far foretell."""
        playlist = self._stream.playlist
        if playlist.total_bytes is not None or self._done_seconds <= 0:
            return playlist.total_bytes
        share = min(1.0, self._done_seconds / playlist.duration_seconds)
        return max(self.received_bytes, round(self._done_bytes / share))

    async def _key(self, key: SegmentKey) -> bytes:
        """Fetch each key once, however many segments wait for it."""
        if key.url not in self._keys:
            self._keys[key.url] = asyncio.ensure_future(
                self._retries.of(
                    partial(self._fetch_key, key.url),
                    self._client.limits.of(key.url),
                    is_urgent=lambda: True,
                )
            )
        return await asyncio.shield(self._keys[key.url])

    async def _fetch_key(self, url: str) -> bytes:
        fetched = await self._client.read(
            "GET", url, max_bytes=1024, cookie_header=self._stream.cookie_for(url)
        )
        if len(fetched.body) != algorithms.AES128.key_size // 8:
            raise _unreadable()
        return fetched.body


def _decrypted(part: Part, body: bytes, key: bytes) -> bytes:
    """Undo AES-128-CBC with PKCS #7 padding (RFC 8216, section 4.3.2.4).

    An initialisation section that stands before its key tag is not encrypted, and shows it.
    """
    if part.is_init and body[4:8] in _BOX_TYPES:
        return body
    iv = bytes.fromhex(part.key.iv) if part.key else b""
    decryptor = Cipher(algorithms.AES128(key), modes.CBC(iv)).decryptor()
    unpadder = PKCS7(algorithms.AES128.block_size).unpadder()
    try:
        padded = decryptor.update(body) + decryptor.finalize()
        return unpadder.update(padded) + unpadder.finalize()
    except ValueError:
        raise _unreadable() from None


async def _stop(tasks: list[asyncio.Future[bytes]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _unreadable() -> IngestFailed:
    return IngestFailed(LectureFailure.SOURCE_NOT_FOUND, "The stream's playlist cannot be read.")
