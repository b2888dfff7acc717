"""A file of a server that sends parts of its files: one version of it, and how fast it comes."""

import asyncio
import time
from dataclasses import dataclass, field, replace
from functools import partial

import httpx

from app.domain import LectureFailure
from app.errors import IngestFailed
from app.ingest.failures import Refused, closed_meanwhile
from app.ingest.fetch.file import Begun, validator_of
from app.ingest.fetch.playlist import ByteRange
from app.ingest.fetch.ranges.connections import RangeAnswer, RangeConnections
from app.ingest.fetch.ranges.plan import IN_FLIGHT, Link
from app.ingest.model import MediaLocation
from app.ingest.net.content_range import content_range, size_at_416
from app.ingest.net.guard import GuardedClient, content_type, cookie_of
from app.ingest.net.retries import PATIENCE, Patience, Retries
from app.ingest.net.sniffing import require_media

_LEAST_MEASURED_BYTES = 32 * 1024
_SHORTEST_SECONDS = 1e-6
_SLOWEST_BYTES_PER_SECOND = 1e5
_TRIES_OF_ODD_ANSWERS = 2


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

    def link(self, in_flight: int) -> Link:
        """Return how the source answers so many requests at once, as far as can be told.

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
        return Link(round_trip, max(rates, default=_SLOWEST_BYTES_PER_SECOND), in_flight)


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
        self._limit = client.limits.of(location.url)
        self._connections: RangeConnections | None = None
        self._all_connections: list[RangeConnections] = []
        self._renewing = asyncio.Lock()
        self._measured = _Measured()
        self._head = b""
        self.version: FileVersion | None = None
        self.has_changed = False
        """Whether it is another file now than it was at the first read."""
        self.fetched_bytes = 0
        self.size_bytes: int | None = None
        """The whole file's size, as soon as the source has told it."""
        self._streamed_bytes = 0

    @property
    def received_bytes(self) -> int:
        """What has arrived, of reads under way too; a part that is read again counts again."""
        return self._streamed_bytes + sum(each.received_bytes for each in self._all_connections)

    @property
    def link(self) -> Link:
        """How the source answers, by the reads so far."""
        return self._measured.link(self._limit.most_of(IN_FLIGHT))

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
        """Abort every connection; the loop has let go of all of them afterwards."""
        for connections in self._all_connections:
            connections.close()
        await asyncio.sleep(0)

    async def _read_once(self, wanted: ByteRange) -> bytes:
        """Ask once, and again where that may help: not a source that has said nothing yet."""
        if self.version is None:
            try:
                return await self._retries.of(
                    partial(self._ask, wanted), self._limit, tries_again=False
                )
            except Refused as refusal:
                if refusal.is_overload:
                    raise
                raise RangesRefused(f"status_{refusal.status}") from None
        for _ in range(_TRIES_OF_ODD_ANSWERS):
            try:
                return await self._retries.of(partial(self._ask, wanted), self._limit)
            except Refused as refusal:
                # It had answered well before.
                if refusal.failure is LectureFailure.LOGIN_REQUIRED:
                    raise closed_meanwhile() from None
                if refusal.is_overload:
                    raise
                raise RangesRefused(f"status_{refusal.status}") from None
            except RangesRefused as refusal:
                odd = refusal
        raise odd

    async def _ask(self, wanted: ByteRange) -> bytes:
        sent = time.monotonic()
        read = self._read_first if self.version is None else self._read_more
        body, first_seconds, handshake_seconds = await read(wanted)
        whole_seconds = time.monotonic() - sent - handshake_seconds
        self.fetched_bytes += len(body)
        self._measured.reads.append((first_seconds, whole_seconds, len(body)))
        return body

    async def _read_first(self, wanted: ByteRange) -> tuple[bytes, float, float]:
        """Ask at the address that was given: redirects, and whether there are parts at all.

        Where the connection drops, what came is returned: the rest is asked for from there.
        """
        sent = time.monotonic()
        body = bytearray()
        first_seconds = 0.0
        try:
            async with self._client.stream(
                "GET",
                self.location.url,
                # Later ones go by connections of their own, beside which this one would count.
                headers={"Range": wanted.header, "Connection": "close"},
                cookie_header=self.location.cookie_header,
                tolerate=(416,),
            ) as response:
                # Half of it was the connection's handshake.
                first_seconds = (time.monotonic() - sent) / 2
                version, told_bytes = self._version_of(response, wanted)
                self.size_bytes = version.size_bytes
                async for chunk in response.aiter_raw():
                    body += chunk
                    self._streamed_bytes += len(chunk)
                    if len(body) > told_bytes:
                        raise RangesRefused("more_than_told")
        except IngestFailed as error:
            if not (error.transient and body):
                raise
        if wanted.start == 0:
            encoding = response.headers.get("content-encoding")
            require_media(content_type(response), str(response.url), bytes(body), encoding)
        self._go_to(version)
        return bytes(body), first_seconds, first_seconds

    def _version_of(self, response: httpx.Response, wanted: ByteRange) -> tuple[FileVersion, int]:
        """Return the version that a first answer is of, with where it came from in the end, and how
        many bytes it says that it has.
        """
        if response.status_code == 416:
            raise RangesRefused("empty_file")
        sent = content_range(response.headers)
        if response.status_code != 206 or sent is None or sent.size_bytes is None:
            raise RangesRefused("no_ranges")
        if sent.start != wanted.start or sent.end > wanted.end:
            raise RangesRefused("other_ranges")
        validator = validator_of(response.headers)
        if validator is None:
            raise RangesRefused("no_validator")
        url, cookie = str(response.url), cookie_of(response)
        location = replace(self.location, url=url, cookie_header=cookie)
        return FileVersion(location, sent.size_bytes, validator), sent.end - sent.start

    def _go_to(self, version: FileVersion) -> None:
        """Ask for parts where the redirects led, so that not every one goes the whole way again."""
        had = self.version
        if had and (had.size_bytes, had.validator) != (version.size_bytes, version.validator):
            raise SourceChanged
        if self._connections:
            self._connections.close()
        self.version = version
        self._limit = self._client.limits.of(version.location.url)
        self._connections = RangeConnections(self._client, version.location)
        self._all_connections.append(self._connections)

    async def _read_more(self, wanted: ByteRange) -> tuple[bytes, float, float]:
        """Ask for a part of the same version."""
        version, connections = self.version, self._connections
        if connections is None or version is None:
            raise SourceChanged
        try:
            answer = await connections.get(wanted, version.validator)
        except Refused as refusal:
            if refusal.transient or version.location.url == self.location.url:
                raise
            return await self._read_anew(wanted, connections)
        if 300 <= answer.status < 400:
            return await self._read_anew(wanted, connections)
        return _part_of(answer, wanted, version), answer.first_seconds, 0.0

    async def _read_anew(
        self, wanted: ByteRange, expired: RangeConnections
    ) -> tuple[bytes, float, float]:
        """Ask at the first address again: what it led to, a signed URL as a rule, has run out."""
        async with self._renewing:
            if self._connections is expired:
                return await self._read_first(wanted)
        return await self._read_more(wanted)


def _part_of(answer: RangeAnswer, wanted: ByteRange, version: FileVersion) -> bytes:
    """Return the part, or raise where it is none, or of another version."""
    if answer.status == 416 and size_at_416(answer.headers) == version.size_bytes:
        raise RangesRefused("status_416")
    validator = validator_of(answer.headers)
    if answer.status == 200 and validator == version.validator:
        raise RangesRefused("no_ranges")
    if answer.status != 206 or validator not in (None, version.validator):
        raise SourceChanged
    sent = content_range(answer.headers)
    if sent is None or sent.start != wanted.start or answer.body is None:
        raise RangesRefused("other_ranges")
    if sent.size_bytes not in (None, version.size_bytes):
        raise SourceChanged
    if sent.end - sent.start != len(answer.body):
        raise RangesRefused("other_ranges")
    return answer.body
