"""Files over HTTP as media hosts serve them: ranges and validators, and the faults to order."""

import asyncio
import os
import re
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from app.embedded.panopto.recording import Recording

_SEGMENT = re.compile(r"\w+-(\d+)\.\w+")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_CHUNK_BYTES = 1024 * 1024
_PACED_BYTES = 64 * 1024
_TYPES = {
    ".m3u8": "application/vnd.apple.mpegurl",
    ".ts": "video/mp2t",
    ".m4s": "video/iso.segment",
    ".mp4": "video/mp4",
}
_PAGE = "<!doctype html><title>Panopto</title><p>This is a page, not a recording.</p>"


@dataclass(frozen=True, slots=True)
class _Slice:
    start: int
    end: int
    size: int
    is_partial: bool = True

    @property
    def content_range(self) -> str:
        return f"bytes {self.start}-{self.end - 1}/{self.size}"


class MediaFile:
    """An ASGI application that serves one file of a recording."""

    def __init__(self, recording: Recording, path: Path) -> None:
        self._recording = recording
        self._faults = recording.faults
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the file, or with the fault that is due."""
        if self._recording.link:
            await self._recording.link.request(scope.get("client"))
        fault = self._fault()
        if fault is not None:
            await fault(scope, receive, send)
            return
        headers = Headers(scope=scope)
        size = self._path.stat().st_size
        if self._faults.etag_changes:
            self._recording.version += 1
        etag = f'"{self._recording.guid}-{self._recording.version}"'
        asked = self._asked(headers, size, etag)
        if asked is None:
            unsatisfiable = Response(status_code=416, headers={"content-range": f"bytes */{size}"})
            await unsatisfiable(scope, receive, send)
            return
        await send(self._start(asked, etag))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await self._body(scope["method"], asked, send, gone)
        finally:
            gone.cancel()

    def _fault(self) -> Response | None:
        faults = self._faults
        segment = _SEGMENT.fullmatch(self._path.name)
        number = int(segment[1]) if segment else -1
        if faults.bad_segment == number and faults.due("bad_segment_times"):
            return HTMLResponse(_PAGE, 503)
        if faults.media_status and faults.due("media_status_times"):
            headers = {"retry-after": faults.retry_after} if faults.retry_after else {}
            return HTMLResponse(_PAGE, faults.media_status, headers)
        if faults.redirect_media_to:
            return RedirectResponse(faults.redirect_media_to, 302)
        return HTMLResponse(_PAGE) if faults.html_media else None

    def _asked(self, headers: Headers, size: int, etag: str) -> _Slice | None:
        """Return the bytes to send, or None where the range lies outside of the file."""
        match = _RANGE.fullmatch(headers.get("range", ""))
        if match is None or self._faults.no_range or headers.get("if-range", etag) != etag:
            return _Slice(0, size, size, is_partial=False)
        start = int(match[1])
        end = min(int(match[2]) + 1 if match[2] else size, size)
        return _Slice(start, end, size) if start < end else None

    def _start(self, asked: _Slice, etag: str) -> dict[str, object]:
        headers = {
            "content-type": _TYPES.get(self._path.suffix, "application/octet-stream"),
            "etag": etag,
        }
        if not self._faults.no_length:
            headers["content-length"] = str(asked.end - asked.start)
        if not self._faults.no_range:
            headers["accept-ranges"] = "bytes"
        if asked.is_partial:
            headers["content-range"] = asked.content_range
        return {
            "type": "http.response.start",
            "status": 206 if asked.is_partial else 200,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }

    async def _body(
        self, method: str, asked: _Slice, send: Send, gone: "asyncio.Task[None]"
    ) -> None:
        """Send the bytes until the client is gone.

        A cut ends the answer short, and the server drops the connection.
        """
        wanted = left = asked.end - asked.start if method != "HEAD" else 0
        cut, end = self._faults.cut_after_bytes, self._faults.ends_at_byte
        if cut is not None and left > cut and self._faults.due("cut_times"):
            left = cut
        elif end is not None:
            left = max(0, min(left, end - asked.start))
        cuts = left < wanted
        with self._path.open("rb", buffering=0) as file:
            file.seek(asked.start)
            while left > 0 and not gone.done():
                rate, link = self._faults.bytes_per_second, self._recording.link
                if link is not None:
                    chunk = os.read(file.fileno(), min(left, _PACED_BYTES))
                    await link.carry(len(chunk))
                elif rate is not None:
                    await asyncio.sleep(0.05)
                    chunk = os.read(file.fileno(), min(left, max(1, rate // 20)))
                else:
                    chunk = os.read(file.fileno(), min(left, _CHUNK_BYTES))
                left -= len(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if not cuts:
            await send({"type": "http.response.body", "body": b""})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
