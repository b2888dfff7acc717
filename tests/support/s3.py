"""An S3 server in a process of its own, and a proxy before it that does harm on request."""

import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import obstore
import pytest
from obstore.store import S3Store

from app.settings import Settings, load_settings
from tests.support.service import Service

BUCKET = "studybuddy"
KEYS = {
    "s3_region": "us-east-1",
    "s3_access_key_id": "key",
    "s3_secret_access_key": "secret",
}
_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A server of this pytest process, with one bucket; tests take prefixes of their own."""
    with running_s3() as endpoint:
        yield endpoint


@contextlib.contextmanager
def running_s3() -> Iterator[str]:
    """Run a server with one bucket and yield its endpoint; it ends with this process at latest."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdin
        assert process.stdout
        endpoint = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        httpx.put(f"{endpoint}/{BUCKET}", trust_env=False).raise_for_status()
        try:
            yield endpoint
        finally:
            process.stdin.close()


def s3_settings(endpoint: str, settings: Settings | None = None, **changes: Any) -> Settings:
    """Return the settings with a bucket, under a prefix of its own, as the storage."""
    base = settings.model_dump(exclude_unset=True) if settings else {}
    url = f"s3://{BUCKET}/{uuid4().hex}"
    return load_settings(
        **base | {"storage_url": url, "s3_endpoint_url": endpoint} | KEYS | changes
    )


def plain_store(endpoint: str, settings: Settings) -> S3Store:
    """Return obstore's own view of that storage."""
    parts = urlsplit(settings.resolved_storage_url)
    return S3Store(
        parts.netloc,
        prefix=parts.path.strip("/"),
        config={
            "endpoint": endpoint,
            "region": "us-east-1",
            "access_key_id": "key",
            "secret_access_key": "secret",
        },
        client_options={"allow_http": True},
    )


def open_uploads(endpoint: str, settings: Settings) -> list[str]:
    """Return the keys of unfinished multipart uploads under the prefix."""
    prefix = urlsplit(settings.resolved_storage_url).path.strip("/")
    answer = httpx.get(f"{endpoint}/{BUCKET}?uploads&prefix={prefix}/", trust_env=False)
    return re.findall("<Key>(.*?)</Key>", answer.raise_for_status().text)


@dataclass
class S3Service(Service):
    """A running service whose objects are in a bucket."""

    endpoint: str = ""

    def stored(self) -> set[str]:
        """Return the keys in the bucket, with unfinished uploads and lectures' scratch files.

        The copy that a page count works on goes with its process, not with the document.
        """
        store = plain_store(self.endpoint, self.settings)
        keys = {meta["path"] for page in obstore.list(store) for meta in page}
        keys |= {f"unfinished {key}" for key in open_uploads(self.endpoint, self.settings)}
        root = self.settings.data_path / "scratch"
        files = (path for path in (root / "audio").rglob("*") if path.is_file())
        return keys | {f"scratch {path.relative_to(root)}" for path in files}

    def lose(self, key: str) -> None:
        obstore.delete(plain_store(self.endpoint, self.settings), key)

    @property
    def storage_root(self) -> Path:
        """Return a folder with a copy of what is in the bucket now."""
        root = self.settings.data_path / "copy of the bucket"
        store = plain_store(self.endpoint, self.settings)
        for page in obstore.list(store):
            for meta in page:
                path = root / meta["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(obstore.get(store, meta["path"]).bytes())
        return root


@dataclass(frozen=True)
class S3Request:
    """What the service asked the bucket."""

    method: str
    target: str


@dataclass(frozen=True)
class Fault:
    """What to do to one request instead of passing it on and back."""

    status: int | None = None
    """Answer with it; the bucket never hears of the request."""
    cut_request_after: int | None = None
    """Drop both connections after so many bytes of the request's body."""
    cut_response_after: int | None = None
    """Drop both connections after so many bytes of the answer."""
    delay_seconds: float = 0.0


@dataclass
class FaultyProxy:
    """Passes requests on, one to a connection, unless `plan` has a fault for one."""

    upstream: str
    plan: Callable[[S3Request], Fault | None] = lambda request: None
    requests: list[S3Request] = field(default_factory=list)
    url: str = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["FaultyProxy"]:
        """Listen on a free port."""
        tasks: set[asyncio.Task[None]] = set()

        def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._answer(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        self.url = "http://127.0.0.1:{1}".format(*server.sockets[0].getsockname())
        try:
            yield self
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def fail(self, times: int, fault: Fault, method: str, target: str = "") -> None:
        """Do the fault to the next requests of that method whose target has that text."""
        left = times

        def plan(request: S3Request) -> Fault | None:
            nonlocal left
            if left and request.method == method and target in request.target:
                left -= 1
                return fault
            return None

        self.plan = plan

    def heal(self) -> None:
        """Do no more harm."""
        self.plan = lambda request: None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            try:
                await self._pass(reader, writer)
            finally:
                writer.transport.abort() if writer.is_closing() else writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, target, _ = head.split(" ", 2)
        request = S3Request(method, target)
        self.requests.append(request)
        fault = self.plan(request) or Fault()
        length = re.search(r"(?im)^content-length: *(\d+)", head)
        body = int(length[1]) if length else 0
        await asyncio.sleep(fault.delay_seconds)
        if fault.status is not None:
            await _relay(reader, None, body)
            writer.write(_refusal(fault.status, method))
            await writer.drain()
            return
        parts = urlsplit(self.upstream)
        theirs, ours = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            head = re.sub(r"(?im)^connection:.*\r\n", "", head)
            ours.write(f"{head[:-2]}Connection: close\r\n\r\n".encode("latin-1"))
            cut = fault.cut_request_after
            await _relay(reader, ours, body if cut is None else min(cut, body))
            if cut is not None:
                writer.transport.abort()
                return
            await _relay(theirs, writer, fault.cut_response_after)
            if fault.cut_response_after is not None:
                writer.transport.abort()
        finally:
            ours.close()


async def _relay(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None, limit: int | None
) -> None:
    """Pass on up to so many bytes, or all until the end."""
    left = limit
    while left is None or left > 0:
        chunk = await reader.read(65536 if left is None else min(65536, left))
        if not chunk:
            return
        if left is not None:
            left -= len(chunk)
        if writer is not None:
            writer.write(chunk)
            await writer.drain()


def _refusal(status: int, method: str) -> bytes:
    code = "SlowDown" if status == 503 else "InternalError"
    body = f"<Error><Code>{code}</Code><Message>Not now.</Message></Error>".encode()
    head = f"HTTP/1.1 {status} Faulty\r\nConnection: close\r\nContent-Type: application/xml\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + (b"" if method == "HEAD" else body)
