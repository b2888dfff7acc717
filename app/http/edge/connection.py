"""Connections as uvicorn keeps them, with an end to waiting: for a head, and for a reader.

uvicorn itself waits without end for the head of a request, lets it grow to any length, and holds an
answer for a client that has stopped to read it.
"""

import asyncio
import uuid

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.schema.kernel.error_format import BAD_USER_INPUT

HEAD_SECONDS = 20.0
MAX_HEAD_BYTES = 64 * 1024
STALL_SECONDS = 60.0


class _StallLimit(asyncio.Protocol):
    """Ends a connection whose client has taken nothing for 60 s."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _stall_timer: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what is waited for."""
        _cancel(self._stall_timer)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Give the client its time to read on."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on writing."""
        _cancel(self._stall_timer)
        super().resume_writing()


class HttpConnection(_StallLimit, HttpToolsProtocol):
    """One HTTP connection: each head within 20 s and 64 KiB, no write that stalls for 60 s."""

    _in_head = True
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what is waited for."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in bytes; a head that is still not complete has its time and size counted."""
        self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_head or self._head_bytes == 0 or self.transport.is_closing():
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, "The head of the request is too large.")
        elif self._head_timer is None:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        """Stop waiting: what follows is the body's own matter."""
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Expect the next head."""
        super().on_message_complete()
        self._in_head, self._head_bytes = True, 0

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the form that all errors have."""
        self._refuse(400, "The request is not valid HTTP.")

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _stop_waiting(self) -> None:
        _cancel(self._head_timer)
        self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        self._stop_waiting()
        error = {"message": message, "extensions": {"code": BAD_USER_INPUT}}
        content = orjson.dumps({"errors": [error]})
        head = (
            "content-type: application/json\r\n"
            f"content-length: {len(content)}\r\n"
            "connection: close\r\n"
            "cache-control: no-store\r\n"
            "x-content-type-options: nosniff\r\n"
            f"x-request-id: {uuid.uuid4().hex}\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[status] + head.encode() + content)
        self.transport.close()


class SocketConnection(_StallLimit, WebSocketsSansIOProtocol):
    """One WebSocket: no write that stalls for 60 s, and no traceback for text that is not UTF-8.

    Such a message is handed on as binary, and the endpoint calls it malformed.
    """

    def send_receive_event_to_app(self) -> None:
        """Hand one whole message to the app."""
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.curr_msg_data_type = "bytes"
        super().send_receive_event_to_app()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
