"""Two attempts at one recording: one that is overtaken in the middle, and its successor.

The first is stopped, its part handed over, and only then does it end: as a worker does that lost
its lease.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import av

from app.embedded.panopto import PanoptoSimulator, Recording
from app.ingest.fetch.downloader import MediaDownloader
from app.ingest.fetch.hls import FetchedStream, fetch_stream
from app.ingest.fetch.part import FetchedFile, hand_over
from app.ingest.fetch.ranges.audio import AudioOptions, fetch_audio
from app.ingest.fetch.ranges.source import RangeSource
from app.ingest.model import Attempt, DownloadedSource, MediaLocation, ResolvedLecture
from app.ingest.net.guard import GuardedClient
from app.ingest.net.retries import Patience
from app.storage.local import LocalStorage
from tests.support.panopto import IMPATIENT, MIB, Reports, download_first, open_stream
from tests.support.wait import wait_until

OLD, NEW = "audio/one_source.1.aa", "audio/one_source.2.bb"
STUBBORN = Patience(
    tries_without_progress=10_000, first_wait_seconds=0.02, longest_wait_seconds=0.02
)
BAD = 6
"""The segment that an overtaken stream stops at."""
_SEGMENT = re.compile(r"\w+-(?:(\d+)\.(?:ts|m4s)|init\.mp4)")


class Attempts:
    """An attempt that is overtaken, and its successor."""

    def __init__(
        self, client: GuardedClient, scratch: LocalStorage, simulator: PanoptoSimulator
    ) -> None:
        self.client, self.scratch, self.simulator = client, scratch, simulator
        self.reports = Reports()

    async def stream(
        self, recording: Recording, stem: str = NEW, patience: Patience = IMPATIENT
    ) -> FetchedStream:
        location = MediaLocation("hls", self.simulator.hls_url(recording) + "?signature=" + stem)
        stream = await open_stream(self.client, location)
        return await fetch_stream(
            self.client,
            stream,
            Attempt(self.scratch, stem, self.reports),
            max_bytes=64 * MIB,
            patience=patience,
        )

    async def ranges(
        self, recording: Recording, stem: str = NEW, patience: Patience = IMPATIENT
    ) -> FetchedFile:
        location = MediaLocation("mp4", self.simulator.media_url(recording))
        source = RangeSource(self.client, location, patience)
        return await fetch_audio(
            source, Attempt(self.scratch, stem, self.reports), AudioOptions(64 * MIB)
        )

    async def get(
        self, downloader: MediaDownloader, *media: MediaLocation, failed_before: int = 0
    ) -> DownloadedSource:
        lecture = ResolvedLecture(None, None, None, media)
        attempt = Attempt(self.scratch, NEW, self.reports, failed_before)
        return await download_first(downloader, lecture, attempt)

    @asynccontextmanager
    async def overtaken(
        self, attempt: Coroutine[Any, Any, Any], has_enough: Callable[[], bool]
    ) -> AsyncIterator["asyncio.Task[Any]"]:
        """Run until it has enough, hand that over, and end the attempt after the block."""
        task = asyncio.create_task(attempt)
        await wait_until(lambda: task.done() or has_enough(), "enough was fetched")
        assert not task.done(), task.result()
        for suffix in (".part", ".note"):
            hand_over(self.scratch, f"{OLD}{suffix}", NEW)
        self.reports.all.clear()
        self.simulator.requests.clear()
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])

    @asynccontextmanager
    async def overtaken_stream(self, recording: Recording) -> AsyncIterator["asyncio.Task[Any]"]:
        """A stream of which the segments before the bad one were written."""
        recording.faults.bad_segment, recording.faults.bad_segment_times = BAD, None
        pieces = BAD + recording.hls_fragmented_mp4
        attempt = self.stream(recording, OLD, STUBBORN)
        async with self.overtaken(attempt, lambda: len(self.ends()) == pieces) as task:
            recording.faults.bad_segment = None
            yield task

    def overtaken_ranges(
        self, recording: Recording
    ) -> AbstractAsyncContextManager["asyncio.Task[Any]"]:
        """A fetch by ranges of which half was written."""
        attempt = self.ranges(recording, OLD, STUBBORN)
        return self.overtaken(attempt, lambda: self.size_of(f"{OLD}.part") >= MIB)

    def size_of(self, key: str) -> int:
        path = self.scratch.path_of(key)
        return path.stat().st_size if path.exists() else 0

    def ends(self, stem: str = OLD) -> bytes:
        """One byte for each piece that the note knows."""
        note = self.scratch.path_of(f"{stem}.note")
        return note.read_bytes().partition(b"\n")[2][::8] if note.exists() else b""

    def content(self, key: str) -> bytes:
        return self.scratch.path_of(key).read_bytes()

    def sent_bytes(self, recording: Recording, *suffixes: str) -> int:
        asked = self.simulator.media_requests(recording)
        return sum(each.sent_bytes for each in asked if each.path.endswith(suffixes))

    def segments(self, recording: Recording) -> list[int]:
        """Return the numbers of the segments that were asked for; -1 is an initialisation.

        Each once: what the predecessor asked for last may only arrive now.
        """
        asked = self.simulator.media_requests(recording)
        names = [each.path.rpartition("/")[2] for each in asked]
        found = [_SEGMENT.fullmatch(name) for name in names]
        return sorted({int(match[1] or -1) for match in found if match})


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as source:
        return [bytes(packet) for packet in source.demux(audio=0) if packet.size]
