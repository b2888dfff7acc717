"""One file by HTTP into scratch storage, resumed where the connection drops or the worker died.

    begin -> bytes flow -> (drop -> wait -> Range + If-Range from where it stopped)* -> end
                 \\-> the source is another one now: begin again, with nothing kept

Validators and ranges follow RFC 9110, sections 13.1.5 and 14.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import httpx
import structlog

from app.cancellation import ended
from app.domain import DownloadStage, LectureFailure
from app.errors import IngestFailed
from app.ingest.guard import GuardedClient, content_type
from app.ingest.http_failures import login_required, looks_like_login
from app.ingest.part_file import PartFile, Version, identity_of
from app.ingest.protocols import MediaLocation, Progress, ReportProgress
from app.storage.batches import batched
from app.storage.protocol import LocalFiles

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_HTML = frozenset({"text/html", "application/xhtml+xml"})


@dataclass(frozen=True, slots=True)
class Patience:
    """How much is borne within one attempt; what is more goes to the job's own retries.

    Waits are ``uniform(0, min(longest, first * 2**n))``: exponential backoff with full jitter.  A
    Retry-After above ``longest_wait_seconds`` is left to the job.
    """

    tries_without_progress: int = 5
    tries_in_all: int = 1000
    restarts: int = 3
    first_wait_seconds: float = 0.2
    longest_wait_seconds: float = 5.0

    async def wait(self, tries: int, failure: IngestFailed) -> None:
        """Wait before try number ``tries`` (the first is 1), or raise the failure at once."""
        named = failure.retry_after_seconds
        if named is not None and named > self.longest_wait_seconds:
            raise failure
        ceiling = min(self.longest_wait_seconds, self.first_wait_seconds * 2 ** (tries - 1))
        jittered = random.uniform(0, ceiling)  # noqa: S311 - spreads load, guards no secret
        await asyncio.sleep(jittered if named is None else named)


PATIENCE = Patience()


class _SourceChanged(Exception):
    """What was fetched so far belongs to another version of the file."""


@dataclass(frozen=True, slots=True)
class _Known:
    """How far a file was read, and what is known of its version."""

    offset: int = 0
    size_bytes: int | None = None
    validator: str | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """The first bytes of a file, had already, and the version that they are of."""

    head: bytes
    size_bytes: int
    validator: str


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """The object stored, and how many bytes of it this attempt asked the source for."""

    key: str
    size_bytes: int
    fetched_bytes: int


async def fetch_file(
    client: GuardedClient,
    location: MediaLocation,
    scratch: LocalFiles,
    key_stem: str,
    report: ReportProgress,
    *,
    max_bytes: int,
    patience: Patience = PATIENCE,
    begun: Begun | None = None,
) -> FetchedFile:
    """Store the file under ``{key_stem}.mp4``; on any error nothing of it is left.

    Goes on with what a killed attempt left under the stem (`part_file.hand_over`), else with
    ``begun``.  Raises `IngestFailed`: what HTTP said, TOO_LARGE as soon as it is known, TRUNCATED
    (transient) where the source keeps ending before its own Content-Length.
    """
    part = _Part(await asyncio.to_thread(PartFile, scratch, key_stem), identity_of(location.url))
    body = _FileBody(client, location, report, max_bytes, patience)
    try:
        body.go_on(await part.go_on() or await part.begin_with(begun))
        for _ in range(patience.restarts + 1):
            try:
                fetched_bytes = await part.fill(body)
            except _SourceChanged:
                body = _FileBody(client, location, report, max_bytes, patience)
                await part.discard()
                continue
            return await part.publish(scratch, f"{key_stem}.mp4", fetched_bytes)
    finally:
        await part.discard()
    raise IngestFailed(
        LectureFailure.NETWORK, "The source keeps changing while it is read.", transient=True
    )


async def has_part(scratch: LocalFiles, key_stem: str, url: str) -> bool:
    """Whether an attempt before left a part of this source under the stem."""
    part = await asyncio.to_thread(PartFile, scratch, key_stem)
    return await _in_thread(part.belongs_to, identity_of(url))


async def discard_part(scratch: LocalFiles, key_stem: str) -> None:
    """Remove what is left of a part under the stem."""
    part = await asyncio.to_thread(PartFile, scratch, key_stem)
    await _in_thread(part.discard)


class _Part:
    """`PartFile` for a task: every call in a thread, and ended before it is let go."""

    def __init__(self, part: PartFile, identity: str) -> None:
        self._part = part
        self._identity = identity
        self._is_open = False

    async def go_on(self) -> _Known | None:
        """Return how far an earlier attempt came, and with which version."""
        version = await _in_thread(self._part.go_on, self._identity)
        if version is None:
            return None
        self._is_open = True
        log.info("fetch_resumed", offset=self._part.size_bytes, size_bytes=version.size_bytes)
        return _Known(self._part.size_bytes, version.size_bytes, version.validator)

    async def begin_with(self, begun: Begun | None) -> _Known | None:
        """Begin the part with the bytes that are here already."""
        if begun is None:
            return None
        await self._begin(_Known(0, begun.size_bytes, begun.validator))
        await _in_thread(self._part.append, [begun.head])
        return _Known(len(begun.head), begun.size_bytes, begun.validator)

    async def fill(self, body: _FileBody) -> int:
        """Write what the body yields; return how many bytes that were."""
        first = self._part.size_bytes if self._is_open else 0
        async with aclosing(body.chunks()) as chunks:
            async for batch in batched(chunks):
                if not self._is_open:
                    await self._begin(body.known)
                await _in_thread(self._part.append, batch)
        if not self._is_open:
            await self._begin(body.known)
        return self._part.size_bytes - first

    async def publish(self, scratch: LocalFiles, key: str, fetched_bytes: int) -> FetchedFile:
        """Make the part the object."""
        path = await asyncio.to_thread(scratch.path_of, key)
        await _in_thread(self._part.publish, path)
        return FetchedFile(key, self._part.size_bytes, fetched_bytes)

    async def discard(self) -> None:
        """Leave nothing."""
        self._is_open = False
        await _in_thread(self._part.discard)

    async def _begin(self, known: _Known) -> None:
        version = None
        if known.size_bytes is not None and known.validator is not None:
            version = Version(self._identity, known.size_bytes, known.validator)
        await _in_thread(self._part.begin, version)
        self._is_open = True


class _FileBody:
    """The bytes of one version of a file, over as many connections as it takes."""

    def __init__(
        self,
        client: GuardedClient,
        location: MediaLocation,
        report: ReportProgress,
        max_bytes: int,
        patience: Patience,
    ) -> None:
        self._client = client
        self._location = location
        self._report = report
        self._max_bytes = max_bytes
        self._patience = patience
        self._answered = False
        self._offset = 0
        self._total: int | None = None
        self._validator: str | None = None

    @property
    def known(self) -> _Known:
        """How far it is, and of which version."""
        return _Known(self._offset, self._total, self._validator)

    def go_on(self, known: _Known | None) -> None:
        """Begin where another left off."""
        if known is not None:
            self._offset, self._total = known.offset, known.size_bytes
            self._validator = known.validator
            self._require_size(self._total or 0)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the rest of the file once, or raise."""
        idle = 0
        if self._total is not None and 0 < self._total <= self._offset:
            return
        for _ in range(self._patience.tries_in_all):
            before = self._offset
            try:
                async with aclosing(self._one_connection()) as connection:
                    async for chunk in connection:
                        yield chunk
                if self._total is None or self._offset >= self._total:
                    return
                failure = _ends_early()
            except IngestFailed as error:
                failure = self._judged(error)
            idle = 1 if self._offset > before else idle + 1
            if idle > self._patience.tries_without_progress:
                raise _ends_early() if self._answered else failure
            await self._patience.wait(idle, failure)
        raise failure

    async def _one_connection(self) -> AsyncGenerator[bytes, None]:
        self._answered = False
        async with self._client.stream(
            "GET",
            self._location.url,
            headers=self._range_headers(),
            cookie_header=self._location.cookie_header,
            tolerate=(416,),
        ) as response:
            self._accept(response)
            self._answered = True
            async for chunk in response.aiter_raw():
                self._offset += len(chunk)
                self._require_size(self._offset)
                await self._report(Progress(DownloadStage.FETCHING, self._offset, self._total))
                yield chunk

    def _range_headers(self) -> dict[str, str]:
        if self._offset == 0:
            return {}
        if self._validator is None:
            raise _SourceChanged
        return {"Range": f"bytes={self._offset}-", "If-Range": self._validator}

    def _accept(self, response: httpx.Response) -> None:
        """Check that the answer is media, and the very bytes that come next."""
        if self._offset:
            self._require_continuation(response)
            return
        if response.status_code != 200:
            raise IngestFailed(
                LectureFailure.SOURCE_NOT_FOUND, "The source does not have the recording."
            )
        require_media(response)
        length = response.headers.get("content-length", "")
        self._total = int(length) if length.isascii() and length.isdigit() else None
        self._require_size(self._total or 0)
        self._validator = validator_of(response.headers)

    def _require_continuation(self, response: httpx.Response) -> None:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if response.status_code != 206 or not match or int(match[1]) != self._offset:
            raise _SourceChanged
        if match[3] != "*" and self._total not in (None, int(match[3])):
            raise _SourceChanged
        if validator_of(response.headers) not in (None, self._validator):
            raise _SourceChanged

    def _require_size(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise too_large()

    def _judged(self, failure: IngestFailed) -> IngestFailed:
        """Raise what no further try within this attempt can mend, else return it."""
        if self._offset == 0:
            raise failure
        if failure.failure is LectureFailure.LOGIN_REQUIRED:
            # It was open a moment ago: a signed URL has run out, and the job will ask for another.
            raise IngestFailed(
                LectureFailure.NETWORK, "The source closed while it was read.", transient=True
            )
        if not failure.transient:
            raise failure
        return failure


def require_media(response: httpx.Response) -> None:
    """Raise `IngestFailed` where the answer is a web page, or encoded, and so no media."""
    require_media_type(content_type(response), str(response.url))
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise IngestFailed(
            LectureFailure.SOURCE_NOT_FOUND, "The source sends its files in an unknown form."
        )


def require_media_type(media_type: str, url: str) -> None:
    """Raise LOGIN_REQUIRED for a page where people sign in, SOURCE_NOT_FOUND for any other page."""
    if media_type not in _HTML:
        return
    if looks_like_login(url):
        raise login_required()
    raise IngestFailed(
        LectureFailure.SOURCE_NOT_FOUND, "The link leads to a web page, not to a recording."
    )


def too_large() -> IngestFailed:
    """Return the failure for a source over MAX_SOURCE_BYTES."""
    return IngestFailed(LectureFailure.TOO_LARGE, "The recording is larger than is accepted.")


def _ends_early() -> IngestFailed:
    return IngestFailed(
        LectureFailure.TRUNCATED, "The source ended before the recording did.", transient=True
    )


def validator_of(headers: Mapping[str, str]) -> str | None:
    """Return what If-Range may carry: a strong ETag, else the date of the last change."""
    etag = headers.get("etag")
    if etag is not None:
        return None if etag.startswith("W/") else etag
    return headers.get("last-modified")


async def _in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run the call in a thread; where cancelled, it has ended all the same."""
    running = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    finally:
        await ended(running)
