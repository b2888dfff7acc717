"""Streams regrouped, so that each hop to a thread or a socket carries enough bytes."""

from collections.abc import AsyncIterator

BATCH_BYTES = 1024 * 1024
MAX_BATCH_CHUNKS = 1024
"""How many buffers one ``writev`` takes (IOV_MAX on Linux)."""


async def batched(chunks: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    """Yield the chunks in lists of about `BATCH_BYTES` and at most `MAX_BATCH_CHUNKS`."""
    batch: list[bytes] = []
    size_bytes = 0
    async for chunk in chunks:
        batch.append(chunk)
        size_bytes += len(chunk)
        if size_bytes >= BATCH_BYTES or len(batch) == MAX_BATCH_CHUNKS:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch
