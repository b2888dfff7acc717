"""An arq worker that answers the doorbell; the runner does the work."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from arq.connections import ArqRedis
from arq.worker import Worker, func
from redis.exceptions import RedisError

from app.events.wakeups import Wakeups
from app.jobs.doorbell import DOORBELL_NAME, QUEUE_NAME, RING, encode_json
from app.jobs.runner import RECOVERY_SECONDS, JobRunner

log = structlog.get_logger()

POLL_SECONDS = 1.0
RING_TIMEOUT_SECONDS = 10
MAX_RINGS_AT_ONCE = 50
_END_SECONDS = 1.0


async def answer_ring(ctx: dict[str, Any]) -> None:
    """Tell the runner to look into the ledger."""
    ctx["runner"].ring()


class RingWorker(Worker):
    """An arq worker that polls when it is rung, and else once in `POLL_SECONDS`.

    arq's own loop polls twice a second and ends with the connection; this one wakes within
    milliseconds and outlives Redis.
    """

    def __init__(self, queue: ArqRedis, wakeups: Wakeups, runner: JobRunner) -> None:
        super().__init__(
            functions=[func(answer_ring, name=RING, keep_result=0, max_tries=1)],
            queue_name=QUEUE_NAME,
            redis_pool=queue,
            handle_signals=False,
            keep_result=0,
            retry_jobs=False,
            max_jobs=MAX_RINGS_AT_ONCE,
            job_timeout=RING_TIMEOUT_SECONDS,
            ctx={"runner": runner},
            job_serializer=encode_json,
            job_deserializer=json.loads,
            log_results=False,
        )
        self._wakeups = wakeups

    async def main(self) -> None:
        """Answer rings until cancelled."""
        with self._wakeups.listen(DOORBELL_NAME) as bell:
            while True:
                try:
                    await self._poll_iteration()
                except (RedisError, OSError) as error:
                    log.warning("doorbell_unreachable", reason=type(error).__name__)
                    # arq counts a ring whose start has failed as one that goes on: begin anew.
                    await self._end_rings()
                    self.job_counter = 0
                    self.sem = asyncio.BoundedSemaphore(self.max_jobs + 1)
                    await asyncio.sleep(RECOVERY_SECONDS)
                await bell.wait(POLL_SECONDS)

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        """Answer rings while the block runs."""
        task = asyncio.create_task(self.main())
        try:
            yield
        finally:
            # redis-py can swallow a cancellation that comes while it connects or sends.
            while not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=1)
            await self._end_rings()

    async def _end_rings(self) -> None:
        """Let what was begun end, so that no connection is closed under it."""
        rings = list(self.tasks.values())
        self.tasks.clear()
        if rings:
            _, late = await asyncio.wait(rings, timeout=_END_SECONDS)
            for ring in late:
                ring.cancel()
            await asyncio.gather(*rings, return_exceptions=True)
