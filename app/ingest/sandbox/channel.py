"""Questions that a child process may ask its parent, over a socket pair that it inherits.

A message is two lengths (unsigned, 32 bits, big-endian), a head in JSON, and a body of bytes.  The
child asks one thing at a time and waits.  The child's end is `child_questions`.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from app.cancellation import ended
from app.ingest.sandbox.questions import LENGTHS

Message = tuple[bytes, bytes]
Answer = Callable[[bytes, bytes], Awaitable[Message]]
"""From a question's head and body to its answer's."""

_MAX_HEAD_BYTES = 256 * 1024
_MAX_BODY_BYTES = 1024 * 1024


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[int]:
    """Answer whoever holds the descriptor that is yielded, for as long as the context lasts.

    A question that is too long closes the channel.  So does an answer that raises, and its error is
    raised where the context ends.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        serving = asyncio.create_task(_serve(reader, writer, answer))
        try:
            yield theirs.fileno()
        finally:
            serving.cancel()
            await ended(serving)
            if not serving.cancelled():
                serving.result()


async def _serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer
) -> None:
    try:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head_bytes, body_bytes = LENGTHS.unpack(await reader.readexactly(LENGTHS.size))
                if head_bytes > _MAX_HEAD_BYTES or body_bytes > _MAX_BODY_BYTES:
                    return
                question = await reader.readexactly(head_bytes)
                head, body = await answer(question, await reader.readexactly(body_bytes))
                writer.write(LENGTHS.pack(len(head), len(body)))
                writer.write(head)
                writer.write(body)
                await writer.drain()
    finally:
        writer.close()
