"""The audio of an MP4 alone: its index read, its audio samples fetched by Range.

    head -> walk the outermost boxes to `moov` -> index (in a child) -> plan -> parts, in flight
      \\______________ any of these may find a reason for the whole file ______________/

The result is an MP4 of one track: the index written anew, and the samples one after the other.
"""

import asyncio
import contextlib
import struct
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Self

import structlog

from app.domain import DownloadStage
from app.errors import DomainError
from app.ingest.audio_index import AudioIndex, NoAudioIndex, read_audio_index
from app.ingest.fetch import too_large
from app.ingest.playlist import ByteRange
from app.ingest.protocols import Progress, ReportProgress
from app.ingest.range_plan import IN_FLIGHT, RangePlan, RangeRequest, plan_ranges
from app.ingest.range_source import RangeSource, RangesRefused, SourceChanged
from app.storage.protocol import LocalFiles, StoredFileMeta

log = structlog.get_logger(__name__)

_HEAD_BYTES = 512 * 1024
_PROBE_BYTES = 64 * 1024
_MAX_PROBES = 12
_MAX_INDEX_BYTES = 48 * 1024 * 1024
_MOST_AHEAD = 2 * IN_FLIGHT
_MOST_BYTES_AHEAD = 16 * 1024 * 1024
_LATE_SECONDS = 0.02
_TICK_SECONDS = 0.5
_SHARE_BEFORE_JUDGED = 0.1
_FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"})


@dataclass(frozen=True, slots=True)
class AudioOptions:
    """How the audio may be fetched: at most so many bytes.

    Files whose whole download is expected to take less than ``least_whole_seconds`` are not worth
    a plan.  ``exact_start`` refuses audio that begins later than the file's other tracks.
    """

    max_bytes: int
    exact_start: bool = False
    least_whole_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class FetchedAudio:
    """The object stored, and how many bytes it took from the source."""

    stored: StoredFileMeta
    fetched_bytes: int


async def fetch_audio(
    source: RangeSource,
    scratch: LocalFiles,
    key: str,
    report: ReportProgress,
    options: AudioOptions,
) -> FetchedAudio:
    """Store the file's audio as an MP4 under the key; on any error nothing of it is left.

    Raises `RangesRefused` with the reason where the whole file is the better, or the only way;
    what was read of it is then `RangeSource.begun`.
    """
    progress = _Progress(source, report)
    try:
        async with progress:
            index = await _read_index(source, options)
            plan = _plan(source, index)
            if plan.fetched_bytes > options.max_bytes:
                raise too_large()
            progress.total_bytes = source.fetched_bytes + plan.fetched_bytes
            parts = _Parts(source, index, plan, progress)
            async with aclosing(parts.chunks()) as chunks:
                stored = await scratch.store_file(key, chunks)
    except NoAudioIndex as refusal:
        raise RangesRefused(refusal.reason) from None
    except SourceChanged:
        source.forget()
        raise RangesRefused("source_changed") from None
    finally:
        await source.close()
    return FetchedAudio(stored, source.fetched_bytes)


async def _read_index(source: RangeSource, options: AudioOptions) -> AudioIndex:
    head = await source.read_head(_HEAD_BYTES)
    if source.version is None or head[4:8] not in _FIRST_BOXES:
        raise RangesRefused("no_mp4")
    size_bytes = source.version.size_bytes
    if size_bytes / source.link.bytes_per_second < options.least_whole_seconds:
        raise RangesRefused("small")
    moov = await _Boxes(source, head, size_bytes).moov()
    index = await read_audio_index(moov, size_bytes)
    if options.exact_start and abs(index.starts_late_seconds) > _LATE_SECONDS:
        raise RangesRefused("audio_starts_late")
    return index


def _plan(source: RangeSource, index: AudioIndex) -> RangePlan:
    if source.version is None:
        raise RangesRefused("no_ranges")
    link = source.link
    plan = plan_ranges(index.spans, source.version.size_bytes, link)
    log.info(
        "audio_ranges_planned",
        worth_it=plan.is_worth_it,
        requests=len(plan.requests),
        planned_bytes=plan.fetched_bytes,
        audio_bytes=index.audio_bytes,
        size_bytes=source.version.size_bytes,
        seconds=round(plan.seconds, 2),
        whole_seconds=round(plan.whole_seconds, 2),
        round_trip_ms=round(link.round_trip_seconds * 1000, 1),
        mb_per_second=round(link.bytes_per_second / 1e6, 1),
    )
    if not plan.is_worth_it:
        raise RangesRefused("no_faster")
    return plan


@dataclass(slots=True)
class _Boxes:
    """The outermost boxes of the file, walked with as few reads as it takes."""

    source: RangeSource
    window: bytes
    size_bytes: int
    window_start: int = 0
    probes: int = field(default=0)

    async def moov(self) -> bytes:
        """Return the ``moov`` box, wherever it stands."""
        at = 0
        while at < self.size_bytes:
            kind, length = await self._header(at)
            if kind == b"moof":
                raise RangesRefused("fragmented")
            if kind == b"moov":
                return await self._whole(at, length)
            at += length
        raise RangesRefused("no_index")

    async def _header(self, at: int) -> tuple[bytes, int]:
        header = await self._bytes(at, min(16, self.size_bytes - at))
        if len(header) < 8:
            raise RangesRefused("no_mp4")
        length, kind = struct.unpack(">I4s", header[:8])
        if length == 1 and len(header) == 16:
            (length,) = struct.unpack(">Q", header[8:])
        elif length == 0:
            length = self.size_bytes - at
        if length < 8:
            raise RangesRefused("no_mp4")
        return kind, length

    async def _bytes(self, at: int, count: int) -> bytes:
        inside = at - self.window_start
        if not 0 <= inside <= len(self.window) - count:
            self.probes += 1
            if self.probes > _MAX_PROBES:
                raise RangesRefused("index_hidden")
            self.window = await self.source.read(ByteRange(at, _PROBE_BYTES))
            self.window_start, inside = at, 0
        return self.window[inside : inside + count]

    async def _whole(self, at: int, length: int) -> bytes:
        if length > _MAX_INDEX_BYTES or at + length > self.size_bytes:
            raise RangesRefused("index_too_large")
        known = self.window[at - self.window_start :][:length]
        if len(known) == length:
            return known
        return known + await self.source.read(ByteRange(at + len(known), length - len(known)))


class _Progress:
    """Tells how much has arrived, also within a part that takes its time.

    ``total_bytes`` is None until there is a plan: the whole file's size stands for it then.
    """

    def __init__(self, source: RangeSource, report: ReportProgress) -> None:
        self._source = source
        self._report = report
        self._ticking: asyncio.Task[None] | None = None
        self.total_bytes: int | None = None

    async def __aenter__(self) -> Self:
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait([self._ticking])

    async def tell(self) -> None:
        """Report now; raises what the receiver raises."""
        received = self._source.received_bytes
        total = self.total_bytes or self._source.size_bytes
        if received:
            known = None if total is None else max(total, received)
            await self._report(Progress(DownloadStage.FETCHING, received, known))

    async def _tick(self) -> None:
        """Report now and then; a receiver that has had enough tells the parts as well."""
        with contextlib.suppress(DomainError):
            while True:
                await asyncio.sleep(_TICK_SECONDS)
                await self.tell()


class _Parts:
    """The new file's bytes in order: the index, then the samples, many requests in flight."""

    def __init__(
        self,
        source: RangeSource,
        index: AudioIndex,
        plan: RangePlan,
        progress: _Progress,
    ) -> None:
        self._source = source
        self._index = index
        self._plan = plan
        self._progress = progress
        self._in_flight = asyncio.Semaphore(IN_FLIGHT)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the file, or raise; `RangesRefused` where it goes slower than was planned."""
        yield self._index.header
        began, done = time.monotonic(), 0
        upcoming, running = iter(self._plan.requests), _Running()
        try:
            self._fill(running, upcoming)
            while running.tasks:
                request, body = await running.first()
                self._fill(running, upcoming)
                yield b"".join(request.cut(body))
                done += request.asked.length
                self._require_pace(time.monotonic() - began, done)
        finally:
            await running.stop()

    def _fill(self, running: "_Running", upcoming: Iterator[RangeRequest]) -> None:
        """Start requests up to the bounds of what may wait in memory."""
        while len(running.tasks) < _MOST_AHEAD and running.bytes < _MOST_BYTES_AHEAD:
            request = next(upcoming, None)
            if request is None:
                return
            running.start(request, asyncio.create_task(self._part(request)))

    def _require_pace(self, seconds: float, done_bytes: int) -> None:
        """Give up early where the estimate was wrong and the whole file would be faster."""
        share = done_bytes / self._plan.fetched_bytes
        if share < 1 and share >= _SHARE_BEFORE_JUDGED:
            left_seconds = seconds / share - seconds
            if left_seconds > self._plan.whole_seconds:
                raise RangesRefused("slower_than_planned")

    async def _part(self, request: RangeRequest) -> bytes:
        async with self._in_flight:
            body = await self._source.read(request.asked)
        await self._progress.tell()
        return body


class _Running:
    """Requests under way, in the order of the file."""

    def __init__(self) -> None:
        self.tasks: deque[tuple[RangeRequest, asyncio.Task[bytes]]] = deque()
        self.bytes = 0

    def start(self, request: RangeRequest, task: "asyncio.Task[bytes]") -> None:
        """Have one more."""
        self.tasks.append((request, task))
        self.bytes += request.asked.length

    async def first(self) -> tuple[RangeRequest, bytes]:
        """Wait for the first and take it away."""
        request, task = self.tasks[0]
        body = await task
        self.tasks.popleft()
        self.bytes -= request.asked.length
        return request, body

    async def stop(self) -> None:
        """End all of them."""
        tasks = [task for _, task in self.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
