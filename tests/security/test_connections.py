"""Slow, broken and endless requests on raw connections: each ends, and the next is served."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.utils import ClientDisconnected

from app.http.edge import connection
from app.http.edge.server import running_server
from app.http.graphql import request_body
from app.settings import load_settings
from tests.support.edge import TOKEN, Edge, running_edge
from tests.support.graphql_ws import open_socket
from tests.support.wait import wait_until

HEAD = f"POST /graphql HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_START = {"type": "http.response.start", "status": 200, "headers": []}
JSON_HEAD = HEAD + b"Content-Type: application/json\r\n"


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    async with running_edge() as edge:
        yield edge
        # Whatever a test did, the service goes on.
        assert (await edge.post("{ hello }")).json() == {"data": {"hello": "hello world"}}


@asynccontextmanager
async def raw(edge: Edge) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = edge.address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def answer_to(edge: Edge, sent: bytes) -> bytes:
    """Return all that the server says until it closes."""
    async with raw(edge) as (reader, writer):
        with contextlib.suppress(ConnectionError):
            writer.write(sent)
            await writer.drain()
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(reader.read(), 10)
        return b""


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"POST /graphql HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_head_that_never_ends_is_not_waited_for(
    edge: Edge, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    async with raw(edge) as (reader, writer):
        writer.write(sent)
        assert await asyncio.wait_for(reader.read(), 5) == b""
    async with raw(edge) as (reader, writer):  # likewise the second on a connection
        writer.write(b"GET /graphql HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent or b"G")
        await asyncio.wait_for(reader.read(), 5)
        assert reader.at_eof()


async def test_dripping_bytes_of_a_head_gain_no_time(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    async with raw(edge) as (reader, writer):
        writer.write(HEAD)
        closed = asyncio.create_task(reader.read())
        dripped = 0
        while not closed.done() and dripped < 1000:
            writer.write(b"x")
            dripped += 1
            await asyncio.wait([closed], timeout=0.01)
        assert closed.done()
        assert dripped < 500


@pytest.mark.parametrize(
    "head",
    [
        b"GET /graphql HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 600_000,
        b"GET /" + b"a" * 600_000,
        b"GET /graphql HTTP/1.1\r\n" + b"X-Many: 1\r\n" * 60_000,
    ],
)
async def test_a_head_of_any_length_is_not_taken_in(edge: Edge, head: bytes) -> None:
    answer = await answer_to(edge, head)
    # A client that goes on sending may see the connection reset rather than the answer.
    assert answer == b"" or answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))
    assert b"Traceback" not in answer


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://evil.example HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /graphql HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /graphql HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /graphql HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Name: y\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"CONNECT evil.example:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /graphql HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET /graphql HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    ],
)
async def test_what_is_no_http_gets_a_4xx_and_no_traceback(
    edge: Edge, sent: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = await answer_to(edge, sent)
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 204")) or not answer, answer[:200]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("body", [b"", b'{"query": "{ hello }"'])
async def test_a_body_that_does_not_come_is_not_waited_for(
    edge: Edge, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_body, "_IDLE_SECONDS", 0.2)
    async with raw(edge) as (reader, writer):
        writer.write(JSON_HEAD + b"Content-Length: 1000\r\n\r\n" + body)
        status = await asyncio.wait_for(reader.readline(), 5)
        assert status.startswith(b"HTTP/1.1 400")


async def test_a_body_that_drips_is_not_waited_for(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_body, "_IDLE_SECONDS", 0.3)
    async with raw(edge) as (reader, writer):
        writer.write(JSON_HEAD + b"Content-Length: 100000\r\n\r\n")
        status = asyncio.create_task(reader.readline())
        dripped = 0
        while not status.done() and dripped < 1000:
            writer.write(b" ")
            dripped += 1
            await asyncio.wait([status], timeout=0.01)
        assert dripped < 500
        assert (await status).startswith(b"HTTP/1.1 400")


async def test_an_upload_that_drips_leaves_nothing(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_body, "_IDLE_SECONDS", 0.2)
    operations = (
        '{"query":"mutation($i:UploadInput!){upload(input:$i)}",'
        '"variables":{"i":{"label":"a","file":null}}}'
    )
    form = (
        f'--b\r\nContent-Disposition: form-data; name="operations"\r\n\r\n{operations}\r\n'
        '--b\r\nContent-Disposition: form-data; name="map"\r\n\r\n{"0":["variables.i.file"]}\r\n'
        '--b\r\nContent-Disposition: form-data; name="0"; filename="a.pdf"\r\n\r\n%PDF-'
    ).encode()
    head = HEAD + b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9999\r\n\r\n"
    async with raw(edge) as (reader, writer):
        writer.write(head + form)
        status = await asyncio.wait_for(reader.readline(), 5)
        assert status.startswith(b"HTTP/1.1 400")
    assert edge.record.started == ["a.pdf"]
    assert edge.record.stored == {}


async def test_a_client_that_reads_nothing_is_left(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.3)
    lost: list[object] = []
    connection_lost = connection.HttpConnection.connection_lost

    def note(self: connection.HttpConnection, error: Exception | None) -> None:
        lost.append(self)
        connection_lost(self, error)

    monkeypatch.setattr(connection.HttpConnection, "connection_lost", note)
    aliases = " ".join(f"x{n}: hello(name: $n)" for n in range(15))
    body = {"query": f"query ($n: String!) {{ {aliases} }}", "variables": {"n": "x" * 900_000}}
    content = json.dumps(body).encode()
    host, _, port = edge.address.removeprefix("http://").partition(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, (host, int(port)))
        head = JSON_HEAD + b"Content-Length: %d\r\n\r\n" % len(content)
        await loop.sock_sendall(client, head + content)
        await wait_until(lambda: lost, "the server has left")


async def test_malformed_frames_close_with_4400_and_long_ones_with_1009(edge: Edge) -> None:
    texts = ("", "{", "[]", "1", "null", '"x"', '{"type":1}', '{"type":"x"}', "[" * 5000)
    for frame in (*texts, b"x"):
        async with open_socket(edge.address) as client:
            await client.init(TOKEN)
            await client.send_raw(frame)
            assert await client.close_code() == 4400, frame
    async with open_socket(edge.address) as client:
        await client.send_raw("x" * 70_000)
        assert await client.close_code() == 1009


HANDSHAKE = (
    b"GET /graphql HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
)


@pytest.mark.parametrize(
    ("frames", "codes"),
    [
        (b"\x81\x05hello", {1002}),  # not masked
        (b"\xff\x85\0\0\0\0hello", {1002}),  # reserved bits
        (b"\x81\x82\0\0\0\0\xff\xfe", {1007, 4400}),  # no UTF-8
        (b"\x80\x80\0\0\0\0", {1002}),  # a continuation of nothing
        (b"\x88\x81\0\0\0\0\x01", {1002}),  # a close of one byte
        (
            b"\x01\xfe\x7f\xff\0\0\0\0"
            + b"x" * 32767
            + 2 * (b"\0\xfe\x7f\xff\0\0\0\0" + b"x" * 32767),
            {1009},
        ),  # too long only as a whole
        (b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", {1009, 1002}),  # 8 EiB announced
    ],
)
async def test_broken_frames_end_the_socket(edge: Edge, frames: bytes, codes: set[int]) -> None:
    async with raw(edge) as (reader, writer):
        writer.write(HANDSHAKE)
        assert (await reader.readline()).startswith(b"HTTP/1.1 101")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frames)
        closing = await asyncio.wait_for(reader.readexactly(4), 5)
        assert closing[0] == 0x88, closing
        assert struct.unpack("!H", closing[2:])[0] in codes


@pytest.mark.parametrize("is_socket", [False, True])
async def test_who_reads_nothing_is_not_written_to_for_ever(
    is_socket: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.3)
    gone = asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return

        async def listen() -> None:
            while not (await receive())["type"].endswith("disconnect"):
                pass
            gone.set()

        await send({"type": "websocket.accept"} if is_socket else _START)
        ear = asyncio.create_task(listen())
        piece = b"\0" * 65536
        body = {"type": "http.response.body", "body": piece, "more_body": True}
        with contextlib.suppress(ClientDisconnected, OSError):
            while not gone.is_set():
                await send({"type": "websocket.send", "bytes": piece} if is_socket else body)
                await asyncio.sleep(0)
        await ear

    settings = load_settings(port=0)
    async with running_server(endless, settings) as address:
        host, _, port = address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(UPGRADE if is_socket else b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await wait_until(gone.is_set, "the connection is ended")


async def _lifespan(receive: Receive, send: Send) -> None:
    for step in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{step}.complete"})
