"""Thousands of small range requests over a few connections (HTTP/1.1, RFC 9112).

The general client spends milliseconds of work on each request, more than the source does; this one
knows nothing but a GET whose answer is a 206 with a length, and passes on whatever else comes.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from app.domain import LectureFailure
from app.errors import IngestFailed
from app.ingest.guard import Connection, GuardedClient
from app.ingest.http_failures import failure_of_error, failure_of_status
from app.ingest.playlist import ByteRange
from app.ingest.protocols import MediaLocation
from app.ingest.web_url import parse_web_url

_IDLE_SECONDS = 30.0
_READ_BYTES = 256 * 1024
_TROUBLE = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError)


@dataclass(frozen=True, slots=True)
class PartialContent:
    """A 206: its headers in lower case, its body, and the seconds from the request to its head."""

    headers: Mapping[str, str]
    body: bytes
    first_seconds: float


class RangeConnections:
    """Connections to one URL's host; as many as there are requests at once."""

    def __init__(self, client: GuardedClient, location: MediaLocation) -> None:
        self._client = client
        self._url = location.url
        self._head = _request_head(location, client.headers)
        self._idle: list[Connection] = []
        self.received_bytes = 0
        """What has arrived of all bodies, those under way included."""

    async def get(self, wanted: ByteRange, validator: str) -> PartialContent | None:
        """Return the part, or None where the server sends anything but a part.

        Raises `IngestFailed` for a status of 400 or more, and where the connection fails.
        """
        request = f"{self._head}Range: {wanted.header}\r\nIf-Range: {validator}\r\n\r\n".encode()
        try:
            async with asyncio.timeout(_IDLE_SECONDS) as idle:
                return await self._exchange(request, wanted.length, idle)
        except TimeoutError:
            raise IngestFailed(
                LectureFailure.TIMEOUT, "The source did not answer in time.", transient=True
            ) from None
        except _TROUBLE as error:
            raise failure_of_error(error) from error

    async def close(self) -> None:
        """Close every connection."""
        while self._idle:
            await _close(self._idle.pop())

    async def _exchange(
        self, request: bytes, most: int, idle: asyncio.Timeout
    ) -> PartialContent | None:
        """Ask over an idle connection, and over a new one where that was closed meanwhile."""
        while self._idle:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                return await self._ask(self._idle.pop(), request, most, idle)
        return await self._ask(await self._client.connect(self._url), request, most, idle)

    async def _ask(
        self, connection: Connection, request: bytes, most: int, idle: asyncio.Timeout
    ) -> PartialContent | None:
        reader, writer = connection
        reusable = False
        try:
            sent = time.monotonic()
            writer.write(request)
            status, headers = _parsed(await reader.readuntil(b"\r\n\r\n"))
            first_seconds = time.monotonic() - sent
            if status >= 400 and status != 416:
                raise failure_of_status(httpx.Response(status, headers=dict(headers)))
            length = headers.get("content-length", "")
            if status != 206 or not length.isascii() or not length.isdigit() or int(length) > most:
                return None
            body = await self._body(reader, int(length), idle)
            reusable = headers.get("connection", "").lower() != "close"
            return PartialContent(headers, body, first_seconds)
        finally:
            if reusable:
                self._idle.append(connection)
            else:
                await _close(connection)

    async def _body(
        self, reader: asyncio.StreamReader, length: int, idle: asyncio.Timeout
    ) -> bytes:
        """Read a whole body, counted while it arrives: it may take long, but not fall silent.

        One that breaks off raises `IngestFailed`: the connection was not closed before it was used.
        """
        clock = asyncio.get_running_loop().time
        body = bytearray()
        while len(body) < length:
            try:
                chunk = await reader.read(min(_READ_BYTES, length - len(body)))
            except ConnectionError as error:
                raise failure_of_error(error) from error
            if not chunk:
                raise failure_of_error(asyncio.IncompleteReadError(bytes(body), length))
            body += chunk
            self.received_bytes += len(chunk)
            idle.reschedule(clock() + _IDLE_SECONDS)
        return bytes(body)


def _request_head(location: MediaLocation, more: Mapping[str, str]) -> str:
    """Return the request's lines up to those that differ from part to part."""
    url = httpx.URL(location.url)
    authority = parse_web_url(location.url, "url", max_characters=len(location.url)).authority
    headers = {"Host": authority, **more}
    if location.cookie_header:
        headers["Cookie"] = location.cookie_header
    lines = [f"GET {url.raw_path.decode('ascii')} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if any(character in line for line in lines for character in "\r\n"):
        raise ValueError("a header cannot have two lines")
    return "\r\n".join(lines) + "\r\n"


def _parsed(head: bytes) -> tuple[int, dict[str, str]]:
    status_line, *lines = head.decode("latin-1").split("\r\n")
    version, status, *_ = status_line.split(" ", 2)
    if not version.startswith("HTTP/1."):
        raise ValueError("no HTTP/1.1")
    pairs = (line.partition(":") for line in lines if line)
    return int(status), {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _close(connection: Connection) -> None:
    connection[1].close()
    with contextlib.suppress(OSError):
        await connection[1].wait_closed()
