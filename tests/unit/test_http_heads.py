"""Heads of answers as servers write them: read as curl does, unless the end would be in doubt."""

import asyncio
from collections.abc import Iterable

import h11
import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ingest.fetch.ranges.connections import _read_head
from app.ingest.net.http_heads import BadHead, MendingStream, mended, parse_head

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("lines", "headers"),
    [
        (b"A: 1\r\nB:2\r\n", [(b"a", b"1"), (b"b", b"2")]),
        (b"A: 1\nB: 2\n", [(b"a", b"1"), (b"b", b"2")]),
        (b"A : 1\r\nB\t: 2\r\n", [(b"a", b"1"), (b"b", b"2")]),
        (b"X Served By: a\r\nA: 1\r\n", [(b"a", b"1")]),
        (b"Powered\r\nA: 1\r\n: 5\r\n", [(b"a", b"1")]),
        (b" astray\r\nA: 1\r\n", [(b"a", b"1")]),
        (b"A: 1\r\n  2\r\n\t3\r\nB: 4\r\n", [(b"a", b"1 2 3"), (b"b", b"4")]),
        (b"A: 1\x00\x0b2\r\nB\x01: 1\r\n", [(b"a", b"1 2")]),
        (b"A: 1\r\nA: 1\r\nA: 2\r\n", [(b"a", b"1"), (b"a", b"2")]),
        (b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n", [(b"content-length", b"5")]),
        (
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: Chunked, identity\r\n",
            [(b"transfer-encoding", b"chunked")],
        ),
        (b"X-Content-Length: 5\r\n", [(b"x-content-length", b"5")]),
    ],
)
def test_what_is_not_needed_may_be_badly_written(
    lines: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    assert parse_head(OK + lines + b"\r\n") == (b"1", 200, headers)


@pytest.mark.parametrize(
    ("line", "minor", "status"),
    [
        (b"HTTP/1.1 206", b"1", 206),
        (b"HTTP/1.0 200 OK", b"0", 200),
        (b"HTTP/1.1  404   Not\tFound", b"1", 404),
        (b"HTTP/1.1 200 \xc3\xa4\x00", b"1", 200),
        (b"\r\nHTTP/1.1 200 OK", b"1", 200),
    ],
)
def test_status_lines(line: bytes, minor: bytes, status: int) -> None:
    assert parse_head(line + b"\r\n\r\n") == (minor, status, [])


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"ICY 200 OK\r\n\r\n",
        b"<html>",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20\r\n\r\n",
        b"HTTP/1.1 2000\r\n\r\n",
        OK + b"Content-Length 5\r\n\r\n",
        OK + b"Content Length: 5\r\n\r\n",
        OK + b" Content-Length: 5\r\n\r\n",
        OK + b"\x00Transfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_a_head_that_leaves_the_end_in_doubt_is_refused(head: bytes) -> None:
    with pytest.raises(BadHead):
        parse_head(head)


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5, 6\r\n",
        b"Content-Length : 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5\r\n 6\r\n",
        b"Content-Length: 5\x0b6\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Content-Length: five\r\n",
        b"Content-Length:\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked, x\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n",
        b"Transfer-Encoding: chunked, gzip, chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n",
    ],
)
def test_an_end_in_doubt_stays_in_doubt(lines: bytes) -> None:
    with pytest.raises(h11.RemoteProtocolError):
        _read_by_h11(mended(OK + lines + b"\r\n"))


@given(st.binary(max_size=200))
def test_whatever_is_mended_a_strict_parser_reads(lines: bytes) -> None:
    try:
        head = mended(OK + lines.replace(b"\n", b"\n\r\n:x\n") + b"\r\n\r\n")
    except BadHead:
        return
    if b"content-length" not in head and b"transfer-encoding" not in head:
        assert isinstance(_read_by_h11(head), h11.Response)


class Drops(httpcore.AsyncNetworkStream):
    """A connection on which an answer comes in given pieces."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return next(self._pieces, b"")

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Take it."""


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_heads_are_mended_and_bodies_left_as_they_are(size: int) -> None:
    interim, body = b"HTTP/1.1 103 Early Hints\r\nLink\r\n\r\n", b"\r\n\r\nA B: 1\r\n\r\n"
    sent = b"\r\n" + interim + OK + b"A B: 1\r\nContent-Length: 14\r\n\r\n" + body
    stream = MendingStream(Drops(sent[at : at + size] for at in range(0, len(sent), size)))
    received = b""
    for _ in range(2):
        await stream.write(b"GET")
        read = b""
        while not read.endswith(body):
            read += await stream.read(10_000)
        received = read
        stream = MendingStream(Drops([sent]))
    assert received == b"HTTP/1.1 200 \r\ncontent-length: 14\r\n\r\n" + body


NO_HEADS = {
    "nothing": b"",
    "half": b"HTTP/1.1 200 OK\r\n",
    "no end": b"A" * 500_000,
    "another protocol": b"no head\r\n\r\n",
    "interim for ever": b"HTTP/1.1 100 Continue\r\n\r\n" * 21 + OK + b"\r\n",
    "blank for ever": b"\r\n" * 250_000 + OK + b"\r\n",
}


@pytest.mark.parametrize("sent", NO_HEADS.values(), ids=NO_HEADS)
async def test_no_whole_head_is_an_error_of_the_protocol(sent: bytes) -> None:
    stream = MendingStream(Drops([sent[at : at + 1000] for at in range(0, len(sent), 1000)]))
    with pytest.raises(httpcore.RemoteProtocolError):
        await stream.read(1000)
    reader = asyncio.StreamReader()
    reader.feed_data(sent)
    reader.feed_eof()
    with pytest.raises((asyncio.IncompleteReadError, ValueError)):
        await _read_head(reader)


def _read_by_h11(head: bytes) -> object:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(head)
    return connection.next_event()
