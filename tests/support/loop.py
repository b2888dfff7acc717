"""How long the event loop was held by one task while something was going on."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

MOST_SECONDS = 0.25
"""What no task may hold the loop for: far less than a lease, or a heartbeat's interval."""
_TICK_SECONDS = 0.005


class Ticks:
    """The longest work between two ticks.

    It is the loop's thread's CPU time: a machine that is busy with other things does not count.
    Nor does what the tests before have left: to look through all of it for garbage, in the thread
    that happens to ask for memory, takes longer than anything that is measured here.
    """

    def __init__(self) -> None:
        self.longest_seconds = 0.0

    async def count(self) -> None:
        """Tick until cancelled."""
        while True:
            before = time.thread_time()
            try:
                await asyncio.sleep(_TICK_SECONDS)
            finally:  # The block may end with its longest work.
                self.longest_seconds = max(self.longest_seconds, time.thread_time() - before)


@asynccontextmanager
async def ticking() -> AsyncIterator[Ticks]:
    """Tick beside the block."""
    ticks = Ticks()
    gc.collect()
    gc.freeze()
    counting = asyncio.create_task(ticks.count())
    await asyncio.sleep(0)
    try:
        yield ticks
    finally:
        counting.cancel()
        await asyncio.wait([counting])
        gc.unfreeze()
