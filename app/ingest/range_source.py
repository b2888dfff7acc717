"""A file of a server that sends parts of its files: one version of it, and how fast it comes."""

import re
import time
from dataclasses import dataclass, field, replace
from functools import partial

import httpx

from app.domain import LectureFailure
from app.errors import IngestFailed
from app.ingest.fetch import Begun, require_media, validator_of
from app.ingest.guard import GuardedClient, origin_of
from app.ingest.patience import PATIENCE, Patience, Retries
from app.ingest.playlist import ByteRange
from app.ingest.protocols import MediaLocation
from app.ingest.range_connections import RangeConnections
from app.ingest.range_plan import Link

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_LEAST_MEASURED_BYTES = 32 * 1024
_SHORTEST_SECONDS = 1e-6
_SLOWEST_BYTES_PER_SECOND = 1e5


class RangesRefused(Exception):
    """The file cannot be had in parts, for a reason that goes to the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SourceChanged(Exception):
    """The file is another one than a moment ago."""


@dataclass(frozen=True, slots=True)
class FileVersion:
    """What tells one version of a file from the next, and where its parts are asked for."""

    location: MediaLocation
    size_bytes: int
    validator: str


@dataclass(slots=True)
class _Measured:
    """The reads so far: seconds to the first byte, seconds in all, bytes."""

    reads: list[tuple[float, float, int]] = field(default_factory=list)

    def link(self) -> Link:
        """Return how the source answers, as far as can be told.

        The fastest first byte is the round trip, so that a handshake is left out.  The rate is that
        of the fastest long read.  A body often comes in one burst, after a wait that hid its flow:
        so no less than a quarter of a read's time is its flow's.
        """
        round_trip = min(first for first, _, _ in self.reads)
        rates = [
            size_bytes / max(whole - round_trip, whole / 4, _SHORTEST_SECONDS)
            for _, whole, size_bytes in self.reads
            if size_bytes >= _LEAST_MEASURED_BYTES
        ]
        return Link(round_trip, max(rates, default=_SLOWEST_BYTES_PER_SECOND))


class RangeSource:
    """Reads parts of one version of the file; safe for any number of tasks after the first read.

    Every read raises `IngestFailed`, `RangesRefused`, or `SourceChanged` where the parts would not
    belong together.
    """

    def __init__(
        self, client: GuardedClient, location: MediaLocation, patience: Patience = PATIENCE
    ) -> None:
        self._client = client
        self.location = location
        self._retries = Retries(patience)
        self._connections: RangeConnections | None = None
        self._measured = _Measured()
        self._head = b""
        self.version: FileVersion | None = None
        self.has_changed = False
        """Whether it is another file now than it was at the first read."""
        self.fetched_bytes = 0
        self.size_bytes: int | None = None
        """The whole file's size, as soon as the source has told it."""
        self._head_bytes = 0

    @property
    def received_bytes(self) -> int:
        """What has arrived, of reads under way too; a part that is read again counts again."""
        return self._head_bytes + (self._connections.received_bytes if self._connections else 0)

    @property
    def link(self) -> Link:
        """How the source answers, by the reads so far."""
        return self._measured.link()

    @property
    def begun(self) -> Begun | None:
        """What was read of the file's beginning, for whoever fetches it whole."""
        if self.version is None or not self._head:
            return None
        return Begun(self._head, self.version.size_bytes, self.version.validator)

    def forget(self) -> None:
        """Forget the version, which is no longer what the source has."""
        self.version, self._head, self.has_changed = None, b"", True

    async def read_head(self, count: int) -> bytes:
        """Read the file's first bytes: the first read of all."""
        self._head = await self.read(ByteRange(0, count))
        return self._head

    async def read(self, wanted: ByteRange) -> bytes:
        """Return the bytes, all of them unless the file ends before."""
        body = await self._read_once(wanted)
        while self.version and wanted.start + len(body) < min(wanted.end, self.version.size_bytes):
            # A server may send less than was asked for.
            at = wanted.start + len(body)
            more = await self._read_once(ByteRange(at, wanted.end - at))
            if not more:
                raise RangesRefused("empty_parts")
            body += more
        return body

    async def close(self) -> None:
        """Close every connection."""
        if self._connections:
            await self._connections.close()

    async def _read_once(self, wanted: ByteRange) -> bytes:
        """Ask once, and again where that may help: not a source that has said nothing yet."""
        if self.version is None:
            return await self._ask(wanted)
        try:
            return await self._retries.of(partial(self._ask, wanted))
        except IngestFailed as error:
            if error.failure is LectureFailure.LOGIN_REQUIRED:
                raise _closed() from None
            raise

    async def _ask(self, wanted: ByteRange) -> bytes:
        sent = time.monotonic()
        read = self._read_first if self.version is None else self._read_more
        body, first_seconds, handshake_seconds = await read(wanted)
        whole_seconds = time.monotonic() - sent - handshake_seconds
        self.fetched_bytes += len(body)
        self._measured.reads.append((first_seconds, whole_seconds, len(body)))
        return body

    async def _read_first(self, wanted: ByteRange) -> tuple[bytes, float, float]:
        """Ask for the first time: redirects, and whether there are parts at all.

        Where the connection drops, what came is returned: the rest is asked for from there.
        """
        sent = time.monotonic()
        body = bytearray()
        first_seconds = 0.0
        try:
            async with self._client.stream(
                "GET",
                self.location.url,
                headers={"Range": wanted.header},
                cookie_header=self.location.cookie_header,
                tolerate=(416,),
            ) as response:
                # Half of it was the connection's handshake.
                first_seconds = (time.monotonic() - sent) / 2
                version = self._first_version(response, wanted)
                self.size_bytes = version.size_bytes
                async for chunk in response.aiter_raw():
                    body += chunk
                    self._head_bytes = len(body)
                    if len(body) > wanted.length:
                        raise RangesRefused("more_than_asked")
        except IngestFailed as error:
            if not (error.transient and body):
                raise
        self.version = version
        self._connections = RangeConnections(self._client, version.location)
        return bytes(body), first_seconds, first_seconds

    async def _read_more(self, wanted: ByteRange) -> tuple[bytes, float, float]:
        """Ask for a part of the same version."""
        version = self.version
        if self._connections is None or version is None:
            raise SourceChanged
        part = await self._connections.get(wanted, version.validator)
        if part is None:
            raise SourceChanged
        match = _CONTENT_RANGE.fullmatch(part.headers.get("content-range", ""))
        if match is None or int(match[1]) != wanted.start:
            raise RangesRefused("other_ranges")
        if int(match[3]) != version.size_bytes:
            raise SourceChanged
        if validator_of(part.headers) not in (None, version.validator):
            raise SourceChanged
        return part.body, part.first_seconds, 0.0

    def _first_version(self, response: httpx.Response, wanted: ByteRange) -> FileVersion:
        if response.status_code == 416:
            raise RangesRefused("empty_file")
        require_media(response)
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if response.status_code != 206 or match is None:
            raise RangesRefused("no_ranges")
        if int(match[1]) != wanted.start or int(match[2]) >= wanted.end:
            raise RangesRefused("other_ranges")
        validator = validator_of(response.headers)
        if validator is None:
            raise RangesRefused("no_validator")
        location = _after_redirects(self.location, response)
        return FileVersion(location, int(match[3]), validator)


def _after_redirects(location: MediaLocation, response: httpx.Response) -> MediaLocation:
    """Return where the redirects led, so that not every part goes the whole way again."""
    url = str(response.url)
    if url == location.url:
        return location
    same = origin_of(url) == origin_of(location.url)
    return replace(location, url=url, cookie_header=location.cookie_header if same else None)


def _closed() -> IngestFailed:
    """Return the failure of a file that was open a moment ago: a signed URL ran out, as a rule."""
    return IngestFailed(
        LectureFailure.NETWORK, "The source closed while it was read.", transient=True
    )
