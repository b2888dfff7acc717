"""Waiting without guessing how long: a condition, and what it means in words."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.01


async def wait_until(
    condition: Callable[[], T | Awaitable[T]], description: str, *, timeout_seconds: float = 10.0
) -> T:
    """Return the condition's first truthy value; fail with the description after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout_seconds} s still not: {description}")
        await asyncio.sleep(_POLL_SECONDS)
