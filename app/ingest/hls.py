"""An HLS recording into one object: the audio rendition where there is one, segments in order.

Segments (MPEG-TS or fMP4) are fetched a few at a time, each retried by itself, decrypted where they
are AES-128, and written one after the other: the result plays as one file.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from itertools import islice

import structlog
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from app.domain import DownloadStage, LectureFailure
from app.errors import IngestFailed, NotReadyYet
from app.ingest.fetch import PATIENCE, Patience, require_media_type, too_large
from app.ingest.guard import GuardedClient, origin_of
from app.ingest.playlist import MasterPlaylist, MediaPlaylist, Part, SegmentKey, parse_playlist
from app.ingest.protocols import MediaLocation, Progress, ReportProgress
from app.storage.protocol import LocalFiles, StoredFileMeta

log = structlog.get_logger(__name__)

_MAX_PLAYLIST_BYTES = 8 * 1024 * 1024
_MAX_SEGMENT_BYTES = 64 * 1024 * 1024
_MAX_CHOICES = 4
_IN_FLIGHT = 8
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
    key: str,
    report: ReportProgress,
    *,
    max_bytes: int,
    patience: Patience = PATIENCE,
) -> StoredFileMeta:
    """Store all segments, in order, under the key; on any error nothing of it is left."""
    parts = _Parts(client, stream, report, max_bytes, patience)
    async with aclosing(parts.chunks()) as chunks:
        return await scratch.store_file(key, chunks)


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
    require_media_type(fetched.content_type, fetched.url)
    text = fetched.body.decode("utf-8-sig", errors="replace")
    if not text.lstrip().startswith("#EXTM3U"):
        raise _unreadable()
    return await parse_playlist(text, fetched.url)


class _Parts:
    """The bytes of a playlist's parts in order, the next ones on their way meanwhile."""

    def __init__(
        self,
        client: GuardedClient,
        stream: HlsStream,
        report: ReportProgress,
        max_bytes: int,
        patience: Patience,
    ) -> None:
        self._client = client
        self._stream = stream
        self._report = report
        self._max_bytes = max_bytes
        self._patience = patience
        self._received = 0
        self._done_seconds = 0.0
        self._done_bytes = 0
        self._keys: dict[str, asyncio.Future[bytes]] = {}

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield one part after the other, or raise."""
        upcoming = iter(self._stream.playlist.parts)
        running = deque(self._start(part) for part in islice(upcoming, _IN_FLIGHT))
        try:
            while running:
                body = await running[0]
                running.popleft()
                running.extend(self._start(part) for part in islice(upcoming, 1))
                yield body
        finally:
            await _stop([*running, *self._keys.values()])

    def _start(self, part: Part) -> asyncio.Task[bytes]:
        return asyncio.create_task(self._part(part))

    async def _part(self, part: Part) -> bytes:
        """Fetch a part, again where that may help, and decrypt it."""
        if part.is_gap:
            return b""
        body = await self._retried(partial(self._fetch, part))
        self._done_seconds += part.duration_seconds
        self._done_bytes += len(body)
        return _decrypted(part, body, await self._key(part.key)) if part.key else body

    async def _retried(self, fetch: Callable[[], Awaitable[bytes]]) -> bytes:
        tries = 0
        while True:
            try:
                return await fetch()
            except IngestFailed as error:
                tries += 1
                if not error.transient or tries > self._patience.tries_without_progress:
                    raise
                await self._patience.wait(tries, error)

    async def _fetch(self, part: Part) -> bytes:
        wanted = part.byte_range
        headers = {"Range": wanted.header} if wanted else None
        fetched = await self._client.read(
            "GET",
            part.url,
            max_bytes=_MAX_SEGMENT_BYTES,
            headers=headers,
            cookie_header=self._stream.cookie_for(part.url),
            expect_partial=wanted is not None,
            on_bytes=self._arrived,
        )
        require_media_type(fetched.content_type, fetched.url)
        return fetched.body

    async def _arrived(self, count: int) -> None:
        self._received += count
        if self._received > self._max_bytes:
            raise too_large()
        await self._report(Progress(DownloadStage.FETCHING, self._received, self._total_bytes()))

    def _total_bytes(self) -> int | None:
        """Return the size where the playlist tells it, else what the segments so far foretell."""
        playlist = self._stream.playlist
        if playlist.total_bytes is not None or self._done_seconds <= 0:
            return playlist.total_bytes
        share = min(1.0, self._done_seconds / playlist.duration_seconds)
        return max(self._received, round(self._done_bytes / share))

    async def _key(self, key: SegmentKey) -> bytes:
        """Fetch each key once, however many segments wait for it."""
        if key.url not in self._keys:
            self._keys[key.url] = asyncio.ensure_future(
                self._retried(partial(self._fetch_key, key.url))
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
