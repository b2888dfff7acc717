"""Waiting without guessing how long: a condition, and what it means in words."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.01
_PATIENCE_SECONDS = 60.0  # only what never happens takes so long, however busy the machine


async def wait_until(
    condition: Callable[[], T | Awaitable[T]],
    description: str,
    *,
    timeout_seconds: float = _PATIENCE_SECONDS,
    poll_seconds: float = _POLL_SECONDS,
) -> T:
    """Return the condition's first truthy value; fail with the description after the timeout.

    A condition that is itself work for the service is asked less often.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout_seconds} s still not: {description}")
        await asyncio.sleep(poll_seconds)
