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

from app.ingest.failures import failure_of_error, failure_of_status, timed_out
from app.ingest.fetch.playlist import ByteRange
from app.ingest.model import MediaLocation
from app.ingest.net.guard import Connection, GuardedClient
from app.ingest.net.http_heads import MAX_HEAD_BYTES, MAX_INTERIM_HEADS, BadHead, parse_head
from app.ingest.net.urls import parse_web_url

_IDLE_SECONDS = 30.0
_READ_BYTES = 256 * 1024
_TROUBLE = (OSError, asyncio.IncompleteReadError, ValueError)


@dataclass(frozen=True, slots=True)
class RangeAnswer:
    """An answer below 400, or a 416, its headers in lower case.

    ``first_seconds`` is from the request to the head.  ``body`` is None where it was not read: of
    anything but a 206 with a length up to what was asked for.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes | None
    first_seconds: float


class RangeConnections:
    """Connections to one URL's host; as many as there are requests at once."""

    def __init__(self, client: GuardedClient, location: MediaLocation) -> None:
        self._client = client
        self._url = location.url
        self._limit = client.limits.of(location.url)
        self._head = _request_head(location, client.headers)
        self._idle: list[Connection] = []
        self._is_closed = False
        self.received_bytes = 0
        """What has arrived of all bodies, those under way included."""

    async def get(self, wanted: ByteRange, validator: str) -> RangeAnswer:
        """Ask for the part.

        Raises `Refused` for a status of 400 or more, and `IngestFailed` where the connection fails.
        """
        request = f"{self._head}Range: {wanted.header}\r\nIf-Range: {validator}\r\n\r\n".encode()
        try:
            async with asyncio.timeout(_IDLE_SECONDS) as idle:
                return await self._exchange(request, wanted.length, idle)
        except TimeoutError:
            raise timed_out() from None
        except _TROUBLE as error:
            raise failure_of_error(error) from error

    def close(self) -> None:
        """Abort every connection at once; those under way are, when their requests end."""
        self._is_closed = True
        while self._idle:
            connection = self._idle.pop()
            self._limit.take(connection[1].transport)
            _abort(connection)

    async def _exchange(self, request: bytes, most: int, idle: asyncio.Timeout) -> RangeAnswer:
        """Ask over an idle connection, and over a new one where that was closed meanwhile."""
        while self._idle:
            connection = self._idle.pop()
            if self._limit.take(connection[1].transport):
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    return await self._ask(connection, request, most, idle, is_new=False)
        return await self._ask(await self._client.connect(self._url), request, most, idle)

    async def _ask(
        self,
        connection: Connection,
        request: bytes,
        most: int,
        idle: asyncio.Timeout,
        *,
        is_new: bool = True,
    ) -> RangeAnswer:
        reader, writer = connection
        reusable = False
        try:
            if not is_new and await _has_more(reader):
                raise ConnectionResetError("more than the last answer came")
            sent = time.monotonic()
            writer.write(request)
            status, headers = await _read_head(reader)
            first_seconds = time.monotonic() - sent
            if status >= 400 and status != 416:
                raise failure_of_status(httpx.Response(status, headers=dict(headers)))
            length = headers.get("content-length", "")
            is_sized = length.isascii() and length.isdigit() and "transfer-encoding" not in headers
            if status != 206 or not is_sized or int(length) > most:
                return RangeAnswer(status, headers, None, first_seconds)
            body = await self._body(reader, int(length), idle)
            reusable = "close" not in headers.get("connection", "").lower()
            return RangeAnswer(status, headers, body, first_seconds)
        finally:
            if reusable and not self._is_closed and self._limit.keep(writer.transport):
                self._idle.append(connection)
            else:
                _abort(connection)

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


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Read up to the head of the final answer; two lengths of it are two, and so none."""
    read_bytes = 0
    for _ in range(MAX_INTERIM_HEADS + 1):
        head = bytearray()
        while True:
            line = await reader.readline()
            read_bytes += len(line)
            if not line.endswith(b"\n") or read_bytes > MAX_HEAD_BYTES:
                raise asyncio.IncompleteReadError(bytes(head), None)
            if line.strip(b"\r\n"):
                head += line
            elif head:
                break
        minor, status, pairs = parse_head(bytes(head))
        if status >= 200:
            headers: dict[str, str] = {} if minor == b"1" else {"connection": "close"}
            for name, value in pairs:
                text, key = value.decode("latin-1"), name.decode("ascii")
                headers[key] = f"{headers[key]}, {text}" if key in headers else text
            return status, headers
    raise BadHead("interim answers without end")


async def _has_more(reader: asyncio.StreamReader) -> bool:
    """Whether more than the last answer has come, or the end: the next answer would begin there."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0):
            await reader.read(1)
            return True
    return False


def _abort(connection: Connection) -> None:
    """Hang up without waiting for anybody, TLS's goodbye included."""
    connection[1].transport.abort()
