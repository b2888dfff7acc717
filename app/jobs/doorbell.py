"""The doorbell: a ring is an arq job, and a wake-up that spares workers the polling.

PostgreSQL holds the work; a ring only says that there is some.  Rings have ids of their own, keep
no result and carry nothing, so that losing or doubling one changes nothing.
"""

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import structlog
from arq.connections import ArqRedis
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

from app.events.wakeups import Wakeup, Wakeups

log = structlog.get_logger()

QUEUE_NAME = "studybuddy:rings"
RING = "ring"
RING_EXPIRES_SECONDS = 3600
RING_SECONDS = 1.0
DOORBELL = Wakeup("doorbell", UUID(int=0))
DOORBELL_NAME = f"{DOORBELL.topic}:{DOORBELL.subject_id}"


def encode_json(value: Any) -> bytes:
    """Serialise a ring; arq's default would be pickle."""
    return json.dumps(value).encode()


def open_ring_queue(redis_url: str) -> ArqRedis:
    """Return a client of the ring queue; it connects when it is first used."""
    pool = ConnectionPool.from_url(redis_url, socket_connect_timeout=1, socket_timeout=5)
    return ArqRedis(
        pool,
        job_serializer=encode_json,
        job_deserializer=json.loads,
        default_queue_name=QUEUE_NAME,
    )


class ArqDoorbell:
    """Rings the workers through arq."""

    def __init__(self, queue: ArqRedis, wakeups: Wakeups) -> None:
        self._queue = queue
        self._wakeups = wakeups

    async def ring(self) -> None:
        """Ring, within `RING_SECONDS`; where Redis is away the workers find the work themselves."""
        try:
            async with asyncio.timeout(RING_SECONDS):
                ring_id = uuid4().hex
                await self._queue.enqueue_job(RING, _job_id=ring_id, _expires=RING_EXPIRES_SECONDS)
                await self._wakeups.publish([DOORBELL])
        except (RedisError, OSError) as error:
            log.warning("ring_lost", reason=type(error).__name__)
