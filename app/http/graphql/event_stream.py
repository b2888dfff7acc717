"""GraphQL over server-sent events, "distinct connections mode": one operation a response.

https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md.  Errors of the document come as a
``next`` event too, as the protocol asks.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import orjson

from app.errors import Unauthenticated
from app.http.graphql.operations import Answer
from app.schema.kernel.error_format import format_exception

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

HEARTBEAT_SECONDS = 12.0

# graphql-sse hangs for ever where a response ends in the same moment in which a ``next`` arrives:
# it notices an end only while it waits for an event (`connect` in its client.ts, 2.6.1).
_LAST_EVENT_SECONDS = 0.5

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),  # nginx would otherwise hold events back
]
_COMPLETE = b"event: complete\ndata:\n\n"
_HEARTBEAT = b":\n\n"


async def send_event_stream(
    answers: AsyncGenerator[Answer, None],
    receive: Receive,
    send: Send,
    *,
    ends_at: float,
    stopping: asyncio.Event,
) -> None:
    """Send each answer as an event, and close the stream of answers however this ends.

    At ``ends_at`` (seconds since the epoch) the session is over, which an ``UNAUTHENTICATED`` event
    tells.  Then, and when the service stops, the response ends without ``complete``, after which
    clients connect again, with a fresh token where they can.
    """
    async with aclosing(answers):
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        ends = (_disconnected(receive), stopping.wait())
        leaving: list[asyncio.Task[Any]] = [asyncio.create_task(end) for end in ends]
        try:
            if not await _send_events(answers, send, ends_at, leaving):
                await asyncio.wait(leaving[:1], timeout=_LAST_EVENT_SECONDS)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            for task in leaving:
                task.cancel()
            await asyncio.gather(*leaving, return_exceptions=True)


async def _send_events(
    answers: AsyncGenerator[Answer, None],
    send: Send,
    ends_at: float,
    leaving: "list[asyncio.Task[Any]]",
) -> bool:
    """Return whether the stream came to its own end."""
    waiting = asyncio.create_task(_next(answers))
    try:
        while not any(task.done() for task in leaving):
            patience = min(HEARTBEAT_SECONDS, max(0.0, ends_at - time.time()))
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait([waiting, *leaving], timeout=patience, return_when=first)
            if waiting.done():
                answer = waiting.result()
                await _write(send, _next_event(answer.body) if answer else _COMPLETE)
                if answer is None:
                    return True
                waiting = asyncio.create_task(_next(answers))
            elif time.time() >= ends_at:
                expired = format_exception(Unauthenticated("The session has expired."), "")
                await _write(send, _next_event({"errors": [expired]}))
                return False
            elif not any(task.done() for task in leaving):
                await _write(send, _HEARTBEAT)
        return False
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def _next(answers: AsyncGenerator[Answer, None]) -> Answer | None:
    return await anext(answers, None)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _write(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


def _next_event(body: dict[str, Any]) -> bytes:
    return b"event: next\ndata: " + orjson.dumps(body) + b"\n\n"
