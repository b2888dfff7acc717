"""One file by HTTP into scratch storage, resumed where the connection drops or an attempt ended.

    begin -> bytes flow -> (drop -> wait -> Range + If-Range from where it stopped)* -> end
                 |-> the source is another one now: begin again, with nothing kept
                 \\-> it will not go on for a later attempt: the whole file, less what is there

Validators and ranges follow RFC 9110, sections 13.1.5 and 14.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

import httpx
import structlog

from app.domain import DownloadStage, LectureFailure
from app.errors import IngestFailed
from app.ingest.failures import SourceBusy, closed_meanwhile
from app.ingest.fetch.part import FetchedFile, Part, Version, open_part, source_name
from app.ingest.model import Attempt, MediaLocation, Progress, ReportProgress
from app.ingest.net.content_range import ContentRange, content_range
from app.ingest.net.guard import GuardedClient
from app.ingest.net.host_limits import Doubt
from app.ingest.net.retries import PATIENCE, Patience
from app.ingest.net.sniffing import media_chunks

log = structlog.get_logger(__name__)

_MOST_WANTED_BYTES = 64 * 1024
_WHOLE = frozenset({200, 203})


class _SourceChanged(Exception):
    """What was fetched so far belongs to another version of the file."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The first bytes of a file, had already, and the version that they are of."""

    head: bytes
    size_bytes: int
    validator: str


async def fetch_file(
    client: GuardedClient,
    location: MediaLocation,
    attempt: Attempt,
    *,
    max_bytes: int,
    patience: Patience = PATIENCE,
    begun: Begun | None = None,
) -> FetchedFile:
    """Store the file under ``{attempt.stem}.mp4``.

    What came before an error may stay (`open_part`).  Goes on with what an attempt before left to
    this one (`part.hand_over`), else with ``begun``.  Raises `IngestFailed`: what HTTP said,
    TOO_LARGE as soon as it is known, TRUNCATED (transient) where the source keeps ending before its
    own Content-Length.
    """
    has_changed = False
    body = _FileBody(client, location, attempt.report, max_bytes, patience)
    async with open_part(attempt) as part:
        version = await part.find(whole_file_of(location))
        if version is None and begun is not None:
            version = Version(whole_file_of(location), begun.validator, begun.size_bytes)
            await part.begin(version)
            await part.append(begun.head)
        body.go_on(part.size_bytes, version)
        for _ in range(patience.restarts + 1):
            try:
                fetched_bytes = await _fill(part, body)
            except _SourceChanged:
                has_changed = True
                body = _FileBody(client, location, attempt.report, max_bytes, patience)
                await part.discard()
                continue
            fetched = await part.publish("mp4", fetched_bytes)
            return replace(fetched, has_changed=has_changed)
    raise IngestFailed(
        LectureFailure.NETWORK, "The source keeps changing while it is read.", transient=True
    )


def whole_file_of(location: MediaLocation) -> str:
    """Return the name of the location's file as a part's source."""
    return source_name(location.kind, location.url)


async def _fill(part: Part, body: _FileBody) -> int:
    """Write what the body yields; return how many bytes were fetched for it."""
    first = part.size_bytes
    async with aclosing(body.chunks()) as chunks:
        async for chunk in chunks:
            if not part.is_open:
                await part.begin(body.version)
            await part.append(chunk)
    if not part.is_open:
        await part.begin(body.version)
    return part.size_bytes - first + body.passed_over_bytes


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
        self._answered = self._refused = False
        self._offset = 0
        self._began_at = 0
        self._limit = client.limits.of(location.url)
        self._doubt = Doubt(self._limit)
        self._is_crowded = False
        self._is_whole = False
        self._told_end: int | None = None
        self.passed_over_bytes = 0
        """What was fetched although it was there already."""
        self._total: int | None = None
        self._validator: str | None = None

    @property
    def version(self) -> Version | None:
        """Which version of the file it is; None where that cannot be told from others."""
        if self._total is None or self._validator is None:
            return None
        return Version(whole_file_of(self._location), self._validator, self._total)

    def go_on(self, offset: int, version: Version | None) -> None:
        """Begin where another left off."""
        if version is not None:
            self._offset = self._began_at = offset
            self._total = version.size_bytes
            self._validator = version.validator
            self._require_size(self._total or 0)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the rest of the file once, or raise.

        A source that refuses to go on may have trouble with that alone: it is asked, once, for the
        whole file, and what is there is passed over.
        """
        try:
            async with aclosing(self._rest()) as rest:
                async for chunk in rest:
                    yield chunk
            return
        except IngestFailed as failure:
            if not self._may_be_for_going_on(failure):
                raise
        log.info("going_on_refused", had_bytes=self._offset)
        self._is_whole = True
        async with aclosing(self._one_connection()) as connection:
            async for chunk in connection:
                yield chunk
        if self._offset < (self._total or 0):
            raise _ends_early()

    def _may_be_for_going_on(self, failure: IngestFailed) -> bool:
        """Whether the failure may be for the Range; a Retry-After is for everything.

        One that would pass is so only where another attempt stopped: this one has met it before.
        """
        is_idle = 0 < self._began_at == self._offset
        may_be = is_idle or (self._offset > 0 and not failure.transient)
        return may_be and self._refused and not failure.retry_after_seconds

    async def _rest(self) -> AsyncGenerator[bytes, None]:
        """Yield what a source lets through that brings enough each time; idle tries are few.

        One that has brought nothing yet in this attempt is not asked twice.
        """
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
                failure = error if self._is_crowded else self._judged(error)
            if self._is_crowded:
                await self._patience.wait(self._doubt.doubts, failure)
                continue
            # So much a connection has to bring for the source to be worth another one.
            wanted_bytes = max(1, min(_MOST_WANTED_BYTES, (self._total or 0) // 100))
            idle = 1 if self._offset - before >= wanted_bytes else idle + 1
            has_news = self._offset > self._began_at
            if not has_news or idle > self._patience.tries_without_progress:
                raise _ends_early() if self._answered else failure
            await self._patience.wait(idle, failure)
        raise failure

    async def _one_connection(self) -> AsyncGenerator[bytes, None]:
        self._answered = self._refused = self._is_crowded = False
        async with self._limit.place() as how_many:
            try:
                async with aclosing(self._one_answer()) as answer:
                    async for chunk in answer:
                        yield chunk
            except IngestFailed as failure:
                self._is_crowded = not self._answered and self._doubt.is_due(failure, how_many())
                raise

    async def _one_answer(self) -> AsyncGenerator[bytes, None]:
        headers = {"Connection": "close"}
        if self._offset and not self._is_whole:
            if self._validator is None:
                raise _SourceChanged
            headers |= {"Range": f"bytes={self._offset}-", "If-Range": self._validator}
        async with self._client.stream(
            "GET",
            self._location.url,
            headers=headers,
            cookie_header=self._location.cookie_header,
            tolerate=(416,),
        ) as response:
            continues = self._accept(response)
            self._answered = True
            self._doubt.resolve()
            async for chunk in self._news(response, continues):
                self._offset += len(chunk)
                self._require_size(self._offset)
                if self._told_end is not None and self._offset > self._told_end:
                    raise _SourceChanged  # Which of its bytes are which, nobody can tell.
                await self._report(Progress(DownloadStage.FETCHING, self._offset, self._total))
                yield chunk

    async def _news(self, response: httpx.Response, continues: bool) -> AsyncGenerator[bytes, None]:
        """Yield of the answer what is not there yet; of a web page nothing."""
        there = 0 if continues else self._offset
        async for chunk in response.aiter_raw() if continues else media_chunks(response):
            old = min(there, len(chunk))
            there -= old
            self.passed_over_bytes += old
            if old < len(chunk):
                yield chunk[old:]

    def _accept(self, response: httpx.Response) -> bool:
        """Check that the answer has the very bytes that come next; return whether it begins there.

        Else it begins with the first of all.  A 206 that was not asked for may have the whole file,
        or its beginning.
        """
        if self._offset and not self._is_whole and response.status_code not in _WHOLE:
            self._told_end = self._continuation(response).end
            return True
        sent = content_range(response.headers) if response.status_code == 206 else None
        if response.status_code not in _WHOLE and (sent is None or sent.start > 0):
            raise IngestFailed(
                LectureFailure.SOURCE_NOT_FOUND, "The source does not have the recording."
            )
        length = response.headers.get("content-length", "")
        total = int(length) if length.isascii() and length.isdigit() else None
        if sent is not None:
            total = sent.size_bytes
        self._told_end = sent.end if sent else None
        validator = validator_of(response.headers)
        if self._offset and (total, validator) != (self._total, self._validator):
            raise _SourceChanged
        self._total, self._validator = total, validator
        self._require_size(total or 0)
        return False

    def _continuation(self, response: httpx.Response) -> ContentRange:
        """Return what the answer has, which must be what comes next of the same version."""
        sent = content_range(response.headers)
        if response.status_code != 206 or sent is None or sent.start != self._offset:
            raise _SourceChanged
        if None not in (sent.size_bytes, self._total) and sent.size_bytes != self._total:
            raise _SourceChanged
        if validator_of(response.headers) not in (None, self._validator):
            raise _SourceChanged
        return sent

    def _require_size(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise too_large()

    def _judged(self, failure: IngestFailed) -> IngestFailed:
        """Raise what no further try within this attempt can mend, else return it."""
        self._refused = isinstance(failure, SourceBusy) or not failure.transient
        if self._offset == 0:
            raise failure
        if failure.failure is LectureFailure.LOGIN_REQUIRED:
            raise closed_meanwhile()
        if not failure.transient:
            raise failure
        return failure


def too_large() -> IngestFailed:
    """Return the failure for a source over MAX_SOURCE_BYTES."""
    return IngestFailed(LectureFailure.TOO_LARGE, "The recording is larger than is accepted.")


def _ends_early() -> IngestFailed:
    return IngestFailed(
        LectureFailure.TRUNCATED, "The source ended before the recording did.", transient=True
    )


def validator_of(headers: Mapping[str, str]) -> str | None:
    """Return what If-Range may carry: a strong ETag, else the date of the last change."""
    etag = headers.get("etag", "").strip()
    if etag and not etag.startswith(("W/", "w/")):
        return etag
    return headers.get("last-modified") or None
