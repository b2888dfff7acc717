"""The body of a request as it arrives: limited, never waited for without end, drained politely."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from app.errors import MalformedRequest, PayloadTooLarge

Receive = Callable[[], Awaitable[Any]]

_IDLE_SECONDS = 30.0
# A client that drips is as bad as one that stands still: from the 30th second on it must be faster.
_LEAST_BYTES_PER_SECOND = 1024
_DRAIN_SECONDS = 10.0


class ClientDisconnected(MalformedRequest):
    """The client went away before its body was complete; nobody is left to answer."""

    def __init__(self) -> None:
        super().__init__("The connection was closed before the body was complete.")


class RequestBody:
    """Reads the messages of one ASGI request."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.complete = False
        self._seconds_waited = 0.0
        self._bytes = 0

    async def chunk(self) -> bytes | None:
        """Return what has arrived next (possibly empty), or None at the end of the body.

        Raises `MalformedRequest` where the client is gone, sends nothing for 30 s, or has kept us
        waiting for 30 s and a second more for each KiB that came.
        """
        if self.complete:
            return None
        loop = asyncio.get_running_loop()
        began = loop.time()
        earned = self._bytes / _LEAST_BYTES_PER_SECOND
        patience = min(_IDLE_SECONDS, _IDLE_SECONDS + earned - self._seconds_waited)
        try:
            async with asyncio.timeout(max(0.0, patience)):
                message = await self._receive()
        except TimeoutError:
            raise MalformedRequest("The body did not arrive in time.") from None
        finally:
            self._seconds_waited += loop.time() - began
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        self.complete = not message.get("more_body", False)
        body: bytes = message.get("body", b"")
        self._bytes += len(body)
        return body

    async def read(self, limit_bytes: int) -> bytes:
        """Return the whole body, or raise `PayloadTooLarge` as soon as it exceeds the limit."""
        parts: list[bytes] = []
        size = 0
        while (part := await self.chunk()) is not None:
            size += len(part)
            if size > limit_bytes:
                raise PayloadTooLarge(limit_bytes)
            parts.append(part)
        return b"".join(parts)

    async def drain(self, limit_bytes: int) -> None:
        """Throw away what still arrives, for 10 s and ``limit_bytes`` at most.

        Many clients read the answer only after they have sent everything, and closing on them
        while they send can destroy the answer on its way.
        """
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while limit_bytes > 0 and (part := await self.chunk()) is not None:
                    limit_bytes -= len(part)
        except (TimeoutError, MalformedRequest):
            return


def check_declared_length(headers: Mapping[str, str], limit_bytes: int, envelope: int = 0) -> None:
    """Raise `PayloadTooLarge` where Content-Length alone shows that the body is too large.

    ``envelope`` is what may come on top of the limit, such as the other parts of a form.
    """
    declared = headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit_bytes + envelope:
        raise PayloadTooLarge(limit_bytes)
