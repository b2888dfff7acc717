"""`GET`, `HEAD /api/documents/{id}/file` and `/api/lectures/{id}/audio`: the bytes of stored files.

They are for a session or a signed link; with ``download=1`` they are an attachment.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal
from uuid import UUID

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app.auth.links import LinkSigner
from app.errors import NotFound, ObjectNotFound
from app.http.edge.authentication import carries_signature
from app.http.files.disposition import content_disposition
from app.http.files.ranges import (
    Decision,
    NotModified,
    Part,
    PreconditionFailed,
    Representation,
    Unsatisfiable,
    Whole,
    decide,
)
from app.services.kernel.file_grants import DOCUMENT_FILE, LECTURE_AUDIO, FileGrant, Reader
from app.storage.protocol import ObjectStore, Presentation, ReadMethod

_log = structlog.get_logger(__name__)

FileLookup = Callable[[str, Reader, UUID], Awaitable[FileGrant | None]]
"""From the kind of file, the reader and the item's id to what the reader gets of it; None where it
may not know that there is one."""

_UUID_CHARACTERS = 36
_REDIRECT_SECONDS = 60
_CACHING = "private"


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of file, and what the item is called that has it."""

    name: str
    noun: str
    path: str


_KINDS = (
    _Kind(DOCUMENT_FILE, "document", "/api/documents/{item_id}/file"),
    _Kind(LECTURE_AUDIO, "lecture", "/api/lectures/{item_id}/audio"),
)


@dataclass(frozen=True, slots=True)
class FileAccess:
    """What the route works with."""

    lookup: FileLookup
    storage: ObjectStore
    signer: LinkSigner
    delivery: Literal["proxy", "redirect"] = "proxy"


def file_routes(access: Callable[[Request], FileAccess]) -> list[Route]:
    """Return the routes; ``access`` gives what they work with, which a lifespan may open late."""

    def route(kind: _Kind) -> Route:
        async def read_file(request: Request) -> Response:
            return await _answer(request, access(request), kind)

        return Route(kind.path, read_file, methods=["GET"])

    return [route(kind) for kind in _KINDS]


async def _answer(request: Request, access: FileAccess, kind: _Kind) -> Response:
    missing = NotFound(kind.noun, request.path_params["item_id"])
    item_id = _item_id(missing)
    reader: Reader = (
        access.signer.verify(kind.name, item_id, request.query_params)
        if carries_signature(request.scope)
        else request.state.viewer
    )
    grant = await access.lookup(kind.name, reader, item_id)
    if grant is None:
        raise missing
    if grant.size_bytes is None:
        with _missing_is(missing):
            found = await access.storage.stat_file(grant.storage_key)
        grant = replace(grant, size_bytes=found.size_bytes)
    is_download = request.query_params.get("download") == "1"
    disposition = content_disposition(grant.filename, attachment=is_download)
    presented = Presentation(grant.mime_type, disposition, _CACHING)
    if access.delivery == "redirect":
        method: ReadMethod = "HEAD" if request.method == "HEAD" else "GET"
        url = await access.storage.get_file_url(
            grant.storage_key, _REDIRECT_SECONDS, method=method, presented_as=presented
        )
        if url:  # Not every store serves files by itself.
            await _require_object(access.storage, grant, missing)
            # Another request gets another URL; ranges and validators are for the store to judge.
            return Response(status_code=307, headers={"Location": url, "Cache-Control": "no-store"})
    target = Representation(grant.size_bytes or 0, _etag(grant.etag_seed), grant.modified_at)
    decision = decide(request.method, request.headers, target)
    if not isinstance(decision, Whole | Part):
        return _bodiless(decision, target)
    stored = _StoredFile(access.storage, grant, target, decision, disposition, missing)
    return await stored.head() if request.method == "HEAD" else stored


def _item_id(missing: NotFound) -> UUID:
    try:
        if len(missing.item_id) == _UUID_CHARACTERS:
            return UUID(missing.item_id)
    except ValueError:
        pass
    raise missing


def _etag(seed: str) -> str:
    """Return a strong entity tag that tells nothing of its seed."""
    return f'"{hashlib.sha256(f"studybuddy-etag-1 {seed}".encode()).hexdigest()[:32]}"'


def _validators(target: Representation) -> dict[str, str]:
    return {
        "ETag": target.etag,
        "Last-Modified": target.last_modified,
        "Accept-Ranges": "bytes",
        "Cache-Control": _CACHING,
        # A cached copy is no other user's.
        "Vary": "Authorization, Cookie",
        "X-Content-Type-Options": "nosniff",
        # No `sandbox`: browsers' own PDF viewers stay blank under it.
        "Content-Security-Policy": "default-src 'none'",
    }


def _bodiless(decision: Decision, target: Representation) -> Response:
    headers = _validators(target)
    match decision:
        case NotModified():
            return Response(status_code=304, headers=headers)
        case PreconditionFailed():
            return Response(status_code=412, headers=headers)
        case Unsatisfiable():
            headers["Content-Range"] = f"bytes */{target.size_bytes}"
            return Response(status_code=416, headers=headers)
    raise AssertionError(decision)


class _StoredFile(Response):
    """Streams the whole object or a part of it.

    The object is opened before the status is sent, so a missing one is still a 404; once open,
    deleting it does not disturb the reader.
    """

    def __init__(
        self,
        storage: ObjectStore,
        grant: FileGrant,
        target: Representation,
        decision: Whole | Part,
        disposition: str,
        missing: NotFound,
    ) -> None:
        part = decision if isinstance(decision, Part) else Part(0, target.size_bytes)
        headers = _validators(target) | {
            "Content-Disposition": disposition,
            "Content-Length": str(part.end - part.start),
        }
        status = 200
        if isinstance(decision, Part):
            status = 206
            headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{target.size_bytes}"
        super().__init__(status_code=status, headers=headers, media_type=grant.mime_type)
        self._storage = storage
        self._grant = grant
        self._part = part
        self._missing = missing

    async def head(self) -> Response:
        """Return the same answer without its body."""
        await _require_object(self._storage, self._grant, self._missing)
        bare = Response(status_code=self.status_code)
        bare.raw_headers = self.raw_headers
        return bare

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.AsyncExitStack() as stack:
            with _missing_is(self._missing):
                opened = await stack.enter_async_context(
                    self._storage.open_file(
                        self._grant.storage_key, self._part.start, self._part.end
                    )
                )
                _check_size(opened.size_bytes, self._grant)
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            disconnected = asyncio.create_task(_disconnect(receive))
            stack.callback(disconnected.cancel)
            async for chunk in opened.chunks:
                if disconnected.done():
                    return
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


async def _require_object(storage: ObjectStore, grant: FileGrant, missing: NotFound) -> None:
    """Raise ``missing`` where the object is not there, or is not the one that was stored."""
    with _missing_is(missing):
        _check_size((await storage.stat_file(grant.storage_key)).size_bytes, grant)


def _check_size(size_bytes: int, grant: FileGrant) -> None:
    """Refuse an object that is not the one that was stored, rather than send other bytes."""
    if size_bytes != grant.size_bytes:
        raise ObjectNotFound


@contextlib.contextmanager
def _missing_is(missing: NotFound) -> Iterator[None]:
    try:
        yield
    except ObjectNotFound:
        _log.error("file.object_missing", item_id=missing.item_id)
        raise missing from None


async def _disconnect(receive: Receive) -> None:
    """Return when the client has gone: the server swallows what is sent after that in silence."""
    while (await receive())["type"] != "http.disconnect":
        pass
