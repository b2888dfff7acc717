"""Waiting that a cancellation cannot cut short."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def ended(work: asyncio.Future[Any]) -> None:
    """Wait until the work has ended, through any further cancellation; raise none of its errors.

    For what runs on by itself (a thread, a killed process), so that nothing it uses is let go
    under it.  Whoever calls this is on the way out already, with an error of its own to raise.
    """
    while not work.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([work])
    if not work.cancelled():
        work.exception()  # Read, so that it is not reported as forgotten.


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run the call in a thread; where cancelled, it has ended all the same."""
    running = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    finally:
        await ended(running)
