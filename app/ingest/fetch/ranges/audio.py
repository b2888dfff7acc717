"""The audio of an MP4 alone: its index read, its audio samples fetched by Range.

    head -> walk the outermost boxes to `moov` -> index (in a child) -> plan -> parts, in flight
      \\______________ any of these may find a reason for the whole file ______________/

The result is an MP4 of one track: the index written anew, and the samples one after the other.
"""

import asyncio
import contextlib
import hashlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Self

import structlog

from app.domain import DownloadStage
from app.errors import DomainError
from app.ingest.boxes import HEADER_BYTES, box_at
from app.ingest.fetch.file import too_large
from app.ingest.fetch.part import FetchedFile, Part, Version, open_part, source_name
from app.ingest.fetch.playlist import ByteRange
from app.ingest.fetch.ranges.index import AudioIndex, NoAudioIndex, read_audio_index
from app.ingest.fetch.ranges.plan import IN_FLIGHT, RangePlan, RangeRequest, left_of, plan_ranges
from app.ingest.fetch.ranges.source import RangeSource, RangesRefused, SourceChanged
from app.ingest.model import Attempt, MediaLocation, Progress, ReportProgress

log = structlog.get_logger(__name__)

_HEAD_BYTES = 512 * 1024
_PROBE_BYTES = 64 * 1024
_MAX_PROBES = 12
_MAX_BOXES = 1000
_MAX_INDEX_BYTES = 48 * 1024 * 1024
_MOST_AHEAD = 2 * IN_FLIGHT
_MOST_BYTES_AHEAD = 16 * 1024 * 1024
_LEAST_WHOLE_SECONDS = 1.0
"""A file that is expected to be had whole in less is not worth a plan."""
_EXACT_SECONDS = 0.02
_LATE_SECONDS = 0.5  # As `audio_track` has it, which sees nothing of the other tracks here.
_TICK_SECONDS = 0.5
_SHARE_BEFORE_JUDGED = 0.1
_SECONDS_BEFORE_JUDGED = 1.0
_FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"})


@dataclass(frozen=True, slots=True)
class AudioOptions:
    """How the audio may be fetched: at most so many bytes.

    Audio that begins later than the file's other tracks is refused, with ``exact_start`` however
    little it is.
    """

    max_bytes: int
    exact_start: bool = False


async def fetch_audio(source: RangeSource, attempt: Attempt, options: AudioOptions) -> FetchedFile:
    """Store the file's audio as an MP4 under ``{attempt.stem}.mp4``.

    Goes on with what an attempt before left to this one, where the file is the same still; what
    was fetched stays as `open_part` tells.
    Raises `RangesRefused` with the reason where the whole file is the better, or the only way;
    what was read of it is then `RangeSource.begun`.
    """
    try:
        async with open_part(attempt) as part, _Teller(source, attempt.report) as progress:
            await _fetch_into(part, source, progress, options)
            return await part.publish("mp4", source.fetched_bytes)
    except NoAudioIndex as refusal:
        raise RangesRefused(refusal.reason) from None
    except SourceChanged:
        source.forget()
        raise RangesRefused("source_changed") from None
    finally:
        await source.close()


async def _fetch_into(
    part: Part, source: RangeSource, progress: "_Teller", options: AudioOptions
) -> None:
    """Read the index anew, which tells whether the part is of this version, and fetch the rest."""
    found = await part.find(audio_ranges_of(source.location))
    if found is not None:
        progress.had_bytes, progress.total_bytes = part.size_bytes, found.size_bytes
    index = await _read_index(source, options, resumed=found is not None)
    # In threads: their work grows with the index, which is a stranger's.
    await part.require(await asyncio.to_thread(_version_of, source, index))
    plan = await asyncio.to_thread(_plan, source, index, part.size_bytes)
    if part.size_bytes + plan.fetched_bytes > options.max_bytes:
        raise too_large()
    progress.had_bytes = part.size_bytes
    progress.total_bytes = part.size_bytes + source.fetched_bytes + plan.fetched_bytes
    parts = _Requests(source, index.header[part.size_bytes :], plan, progress)
    async with aclosing(parts.chunks()) as chunks:
        async for chunk in chunks:
            await part.append(chunk)


async def _read_index(source: RangeSource, options: AudioOptions, *, resumed: bool) -> AudioIndex:
    head = await source.read_head(_HEAD_BYTES)
    if source.version is None or head[4:8] not in _FIRST_BOXES:
        raise RangesRefused("no_mp4")
    size_bytes = source.version.size_bytes
    if size_bytes / source.link.bytes_per_second < _LEAST_WHOLE_SECONDS and not resumed:
        raise RangesRefused("small")
    moov = await _Boxes(source, head, size_bytes).moov()
    index = await read_audio_index(moov, size_bytes)
    latest_seconds = _EXACT_SECONDS if options.exact_start else _LATE_SECONDS
    if abs(index.starts_late_seconds) > latest_seconds:
        raise RangesRefused("audio_starts_late")
    return index


def _version_of(source: RangeSource, index: AudioIndex) -> Version:
    """Return what decides each byte of the new file: the old one's version, and its index."""
    if source.version is None:
        raise RangesRefused("no_ranges")
    digest = hashlib.sha256(index.header)
    digest.update(f"{source.version.validator} {source.version.size_bytes}".encode())
    for span in index.spans:
        digest.update(b" %d-%d" % (span.start, span.end))
    return Version(
        audio_ranges_of(source.location), digest.hexdigest(), len(index.header) + index.audio_bytes
    )


def audio_ranges_of(location: MediaLocation) -> str:
    """Return the name of the location's audio by ranges as a part's source."""
    return source_name("audio_ranges", location.url)


def _plan(source: RangeSource, index: AudioIndex, had_bytes: int) -> RangePlan:
    """Plan what is left; only who begins may still choose the whole file."""
    if source.version is None:
        raise RangesRefused("no_ranges")
    link = source.link
    spans = tuple(left_of(index.spans, max(0, had_bytes - len(index.header))))
    plan = plan_ranges(spans, source.version.size_bytes, link)
    log.info(
        "audio_ranges_planned",
        worth_it=plan.is_worth_it,
        had_bytes=had_bytes,
        requests=len(plan.requests),
        planned_bytes=plan.fetched_bytes,
        audio_bytes=index.audio_bytes,
        size_bytes=source.version.size_bytes,
        seconds=round(plan.seconds, 2),
        whole_seconds=round(plan.whole_seconds, 2),
        round_trip_ms=round(link.round_trip_seconds * 1000, 1),
        mb_per_second=round(link.bytes_per_second / 1e6, 1),
    )
    if not plan.is_worth_it and not had_bytes:
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
        for _ in range(_MAX_BOXES):
            if at >= self.size_bytes:
                break
            header = await self._bytes(at, min(HEADER_BYTES, self.size_bytes - at))
            box = box_at(at, header, self.size_bytes)
            if box is None:
                raise RangesRefused("no_mp4")
            if box.kind == b"moof":
                raise RangesRefused("fragmented")
            if box.kind == b"moov":
                return await self._whole(at, box.end - at)
            at = box.end
        raise RangesRefused("no_index")

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


class _Teller:
    """Tells how much has arrived, also within a part that takes its time.

    ``had_bytes`` were there before.  ``total_bytes`` is None until there is a plan: the whole
    file's size stands for it then.
    """

    def __init__(self, source: RangeSource, report: ReportProgress) -> None:
        self._source = source
        self._report = report
        self._ticking: asyncio.Task[None] | None = None
        self.had_bytes = 0
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
        done = self.had_bytes + self._source.received_bytes
        total = self.total_bytes or self._source.size_bytes
        if done:
            known = None if total is None else max(total, done)
            await self._report(Progress(DownloadStage.FETCHING, done, known))

    async def _tick(self) -> None:
        """Report now and then; a receiver that has had enough tells the parts as well."""
        with contextlib.suppress(DomainError):
            while True:
                await asyncio.sleep(_TICK_SECONDS)
                await self.tell()


class _Requests:
    """The new file's bytes in order: the index (or its rest), then the samples, many requests in
    flight.
    """

    def __init__(
        self,
        source: RangeSource,
        header: bytes,
        plan: RangePlan,
        progress: _Teller,
    ) -> None:
        self._source = source
        self._header = header
        self._plan = plan
        self._progress = progress
        self._in_flight = asyncio.Semaphore(IN_FLIGHT)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the file, or raise; `RangesRefused` where it goes slower than was planned."""
        yield self._header
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
        if share >= _SHARE_BEFORE_JUDGED and seconds >= _SECONDS_BEFORE_JUDGED:
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
