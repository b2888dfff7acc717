"""An HLS recording into one object: a media playlist's segments in order.

Segments (MPEG-TS or fMP4) are fetched a few at a time, each retried by itself, decrypted where they
are AES-128, and written one after the other: the result plays as one file.  A segment is a piece of
the part that the next attempt goes on with.
"""

import asyncio
import hashlib
import math
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, takewhile

from app.domain import DownloadStage, LectureFailure
from app.errors import IngestFailed
from app.ingest.fetch.file import too_large
from app.ingest.fetch.hls_streams import HlsStream, no_audio, unreadable
from app.ingest.fetch.part import Extension, FetchedFile, Version, open_part, source_name
from app.ingest.fetch.playlist import ByteRange, MediaPlaylist, Piece, SegmentKey
from app.ingest.fetch.segment_bytes import decrypted, is_whole, piece_of, without_tag
from app.ingest.model import Attempt, Progress, ReportProgress, RunStart
from app.ingest.net.guard import FetchedBody, GuardedClient
from app.ingest.net.host_limits import may_be_crowding
from app.ingest.net.retries import PATIENCE, Patience, Retries
from app.ingest.net.sniffing import require_media
from app.ingest.sandbox.run import ChildError, ChildKilled, Limits, run_child

_MAX_SEGMENT_BYTES = 64 * 1024 * 1024
_IN_FLIGHT = 8
_MOST_BYTES_AHEAD = 32 * 1024 * 1024
_MAX_ANSWERS = 16
_KEY_BYTES = 16
_HEARING = Limits(memory_bytes=1024**3, cpu_seconds=20, file_bytes=0)
_HEARING_SECONDS = 30
_REFUSALS = frozenset({LectureFailure.SOURCE_NOT_FOUND, LectureFailure.LOGIN_REQUIRED})


@dataclass(frozen=True, slots=True)
class FetchedStream:
    """The stored object, and where in it further runs begin (see `RunStart`)."""

    file: FetchedFile
    runs: tuple[RunStart, ...]


async def fetch_stream(
    client: GuardedClient,
    stream: HlsStream,
    attempt: Attempt,
    *,
    max_bytes: int,
    patience: Patience = PATIENCE,
) -> FetchedStream:
    """Store all segments, in order, under ``{attempt.stem}.ts`` or, where they are fMP4, ``.mp4``.

    Goes on after the last whole segment that an attempt before left to this one, where the
    playlist is the same.  What was fetched stays as `open_part` tells.  Raises NO_AUDIO as soon as
    the first segment shows it.
    """
    # In a thread: a playlist may name 50,000 pieces.
    fingerprint = await asyncio.to_thread(_fingerprint, stream.playlist)
    version = Version(source_name("hls", stream.location.url), fingerprint, None)
    async with open_part(attempt) as part:
        await part.require(version)
        inits = list(takewhile(lambda each: each.is_init or each.is_gap, stream.playlist.pieces))
        # Of nothing but the codec's settings nobody has asked yet whether it has sound.
        if len(part.ends) > len(stream.playlist.pieces) or 0 < len(part.ends) <= len(inits):
            await part.begin(version)
        had = _Had(len(part.ends), part.size_bytes)
        segments = _Segments(client, stream, attempt.report, max_bytes, patience, had)
        begun = b"" if had.pieces == 0 else None
        async with aclosing(segments.bodies()) as bodies:
            async for body in bodies:
                if begun is not None:
                    begun = await _heard(stream.playlist, len(part.ends), begun + body)
                await part.append_piece(body)
        runs = tuple(_runs(stream.playlist, part.ends))
        extension: Extension = "mp4" if stream.playlist.is_fragmented_mp4 else "ts"
        fetched_bytes = segments.received_bytes - had.size_bytes
        return FetchedStream(await part.publish(extension, fetched_bytes), runs)


async def _heard(playlist: MediaPlaylist, number: int, begun: bytes) -> bytes | None:
    """Return what has come up to piece ``number``, or None where enough has.

    Raises NO_AUDIO where that names tracks, and none of sound; a later run may have other tracks.
    """
    piece = playlist.pieces[number]
    if piece.is_init or piece.is_gap:
        return begun
    if not any(each.starts_run for each in playlist.pieces):
        with suppress(ChildError, ChildKilled):  # What has no answer may have sound.
            answer = await run_child(
                "app.ingest.sandbox.tasks.sound",
                {},
                content=begun,
                limits=_HEARING,
                timeout_seconds=_HEARING_SECONDS,
            )
            if answer["may_sound"] is False:
                raise no_audio()
    return None


def _runs(playlist: MediaPlaylist, ends: Sequence[int]) -> Iterator[RunStart]:
    """Yield where the discontinuities are, in the bytes of the pieces that end there."""
    start_byte, start_seconds, slack_seconds = 0, 0.0, 0.0
    for piece, end in zip(playlist.pieces, ends, strict=True):
        if piece.starts_run:
            yield RunStart(start_byte, start_seconds, slack_seconds)
        start_byte, start_seconds = end, start_seconds + piece.duration_seconds
        slack_seconds += piece.slack_seconds


def _fingerprint(playlist: MediaPlaylist) -> str:
    """Return what tells the playlist from one that would make another file.

    Signatures in queries change from answer to answer; they count only where nothing else tells
    the pieces apart.
    """
    pieces: list[Piece] = []
    for piece in playlist.pieces:
        key = piece.key and replace(piece.key, url=piece.key.url.partition("?")[0])
        pieces.append(replace(piece, url=piece.url.partition("?")[0], key=key))
    if len(set(pieces)) < len(set(playlist.pieces)):
        pieces = list(playlist.pieces)
    return hashlib.sha256(repr(pieces).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Had:
    """What is there of the stream already."""

    pieces: int
    size_bytes: int


class _Room:
    """The memory for pieces that wait: all but the first in line stop where it is used up."""

    def __init__(self, first: int) -> None:
        self.first = first
        self._held: dict[int, int] = {}
        self._changed = asyncio.Condition()

    async def take(self, number: int, count: int) -> None:
        """Hold so many bytes more of a piece, and wait until more may come."""
        self._held[number] = self._held.get(number, 0) + count
        async with self._changed:
            await self._changed.wait_for(
                lambda: number == self.first or sum(self._held.values()) <= _MOST_BYTES_AHEAD
            )

    def forget(self, number: int) -> int:
        """Hold nothing of a piece that will be fetched again; return how much that was."""
        return self._held.pop(number, 0)

    async def advance(self) -> None:
        """Let go of the first in line; the next takes its place."""
        async with self._changed:
            self.forget(self.first)
            self.first += 1
            self._changed.notify_all()


class _Segments:
    """A playlist's pieces in order, from some piece on, the next ones on their way meanwhile."""

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
        self._first = had.pieces
        self.received_bytes = had.size_bytes
        """What was there already, and what has arrived of it since; no byte counts twice."""
        pieces = stream.playlist.pieces[: had.pieces]
        self._done_seconds = math.fsum(piece.duration_seconds for piece in pieces)
        self._done_bytes = had.size_bytes
        self._room = _Room(had.pieces)
        self._keys: dict[str, asyncio.Future[bytes]] = {}
        self._takes_ranges = False
        self._whole: tuple[str, bytes] = ("", b"")  # A file that cannot be had in pieces.
        self._whole_turn = asyncio.Lock()
        self._total_seconds = math.fsum(piece.duration_seconds for piece in stream.playlist.pieces)
        self._told_bytes = stream.playlist.total_bytes

    async def bodies(self) -> AsyncGenerator[bytes, None]:
        """Yield one piece after the other, or raise.  The first is asked for alone."""
        upcoming = islice(enumerate(self._stream.playlist.pieces), self._first, None)
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
            for task in (left := [*running, *self._keys.values()]):
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _start(self, number: int, piece: Piece) -> asyncio.Task[bytes]:
        return asyncio.create_task(self._piece(number, piece))

    async def _piece(self, number: int, piece: Piece) -> bytes:
        """Fetch a piece, again where that may help, and decrypt it."""
        if piece.is_gap:
            return b""
        body = await self._retries.of(
            partial(self._fetch, number, piece),
            self._client.limits.of(piece.url),
            # The others may hold all places, and wait for the first in line.
            is_urgent=lambda: number == self._room.first,
        )
        self._done_seconds += piece.duration_seconds
        self._done_bytes += len(body)
        if piece.key:
            body = decrypted(body, await self._key(piece.key), bytes.fromhex(piece.key.iv))
        return without_tag(body)

    async def _fetch(self, number: int, piece: Piece) -> bytes:
        self.received_bytes -= self._room.forget(number)
        if piece.byte_range is None:
            return (await self._read(number, piece)).body
        return await self._fetch_range(number, piece, piece.byte_range)

    async def _fetch_range(self, number: int, piece: Piece, wanted: ByteRange) -> bytes:
        """Return the bytes, in as many pieces as the host sends, or else out of the whole file."""
        if wanted.length > _MAX_SEGMENT_BYTES:
            raise too_large()
        body = b""
        for _ in range(_MAX_ANSWERS):
            if self._whole[0] == piece.url:
                break
            rest = ByteRange(wanted.start + len(body), wanted.length - len(body))
            try:
                fetched = await self._read(number, piece, rest)
            except IngestFailed as failure:
                is_for_crowding = self._takes_ranges and may_be_crowding(failure)
                if is_for_crowding or failure.transient or failure.failure not in _REFUSALS:
                    raise
                break
            if is_whole(fetched):
                self._whole = piece.url, fetched.body
            sent = piece_of(fetched, rest)
            self._takes_ranges |= bool(sent)
            body += sent
            if len(body) == wanted.length:
                return body
            if not sent:
                break
        return await self._cut_out(piece, wanted)

    async def _read(
        self, number: int, piece: Piece, wanted: ByteRange | None = None
    ) -> FetchedBody:
        fetched = await self._client.read(
            "GET",
            piece.url,
            max_bytes=_MAX_SEGMENT_BYTES,
            headers={"Range": wanted.header} if wanted else None,
            cookie_header=self._stream.cookie_for(piece.url),
            on_bytes=partial(self._arrived, number),
        )
        if wanted in (None, piece.byte_range):  # The rest of a piece begins in any way.
            require_media(fetched.content_type, fetched.url, fetched.body)
        return fetched

    async def _cut_out(self, piece: Piece, wanted: ByteRange) -> bytes:
        """Return a range of the whole file, which is had once for all that lie in it.

        Those are few, and it is small: hosts that take no ranges hardly ever have such streams.
        """
        async with self._whole_turn:
            if self._whole[0] != piece.url:
                # Heard of by nobody: who waits for room with the turn would wait forever.
                fetched = await self._client.read(
                    "GET",
                    piece.url,
                    max_bytes=_MAX_SEGMENT_BYTES,
                    cookie_header=self._stream.cookie_for(piece.url),
                )
                require_media(fetched.content_type, fetched.url, fetched.body)
                self.received_bytes += len(fetched.body)
                self._whole = piece.url, fetched.body
            if self.received_bytes > self._max_bytes:
                raise too_large()
            body = self._whole[1][wanted.start : wanted.end]
        if not body:
            raise IngestFailed(
                LectureFailure.TRUNCATED, "The source ended before the recording did."
            )
        return body

    async def _arrived(self, number: int, count: int) -> None:
        self.received_bytes += count
        if self.received_bytes > self._max_bytes:
            raise too_large()
        total_bytes = self._told_bytes
        if total_bytes is None and self._done_seconds > 0:  # As the segments so far foretell.
            share = min(1.0, self._done_seconds / self._total_seconds)
            total_bytes = max(self.received_bytes, round(self._done_bytes / share))
        await self._report(Progress(DownloadStage.FETCHING, self.received_bytes, total_bytes))
        await self._room.take(number, count)

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
        key, behind = fetched.body[:_KEY_BYTES], fetched.body[_KEY_BYTES:]
        if len(key) < _KEY_BYTES or behind.strip():  # A line's end is no part of the key.
            require_media(fetched.content_type, fetched.url, fetched.body)
            raise unreadable()
        return key
