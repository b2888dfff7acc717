"""A transaction that waits for something else, and must not look idle meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.cancellation import ended

_SIGN_OF_LIFE_SECONDS = 1.0


@asynccontextmanager
async def kept_alive(session: AsyncSession) -> AsyncIterator[None]:
    """Keep the transaction from looking idle while the block does something else.

    Where the transaction is gone the block is cancelled, and that error is raised.
    """
    first: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            pinging = group.create_task(_ping(session))
            yield
            pinging.cancel()
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
    if first is not None:
        raise first


async def _ping(session: AsyncSession) -> None:
    while True:
        await asyncio.sleep(_SIGN_OF_LIFE_SECONDS)
        # Shielded: a statement that is cut short would end the connection, and the transaction.
        ping = asyncio.ensure_future(session.execute(text("SELECT")))
        try:
            await asyncio.shield(ping)
        finally:
            await ended(ping)
