"""What the API and the worker both stand on, opened and closed in one place."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.db.engine import make_engine, make_locking_sessions, make_sessions
from app.errors import ConfigurationError, StorageError
from app.events.wakeups import Wakeups
from app.jobs.doorbell import ArqDoorbell, open_ring_queue
from app.services.quotas import RequestCounter
from app.services.unit_of_work import Work
from app.settings import Settings
from app.storage.factory import open_scratch, open_storage
from app.storage.protocol import LocalFiles, ObjectStore


@dataclass(frozen=True, slots=True)
class Backends:
    """Open connections to everything outside this process."""

    settings: Settings
    engine: AsyncEngine
    sessions: async_sessionmaker[AsyncSession]
    storage: ObjectStore
    scratch: LocalFiles
    wakeups: Wakeups
    redis: Redis
    work: Work
    requests: RequestCounter


@asynccontextmanager
async def open_backends(settings: Settings) -> AsyncIterator[Backends]:
    """Open the backends; on leaving, announce what has committed and close them in reverse."""
    if settings.database_url is None or settings.redis_url is None:
        raise ConfigurationError("DATABASE_URL and REDIS_URL: both must be known here")
    async with AsyncExitStack() as stack:
        engine = make_engine(settings.database_url)
        stack.push_async_callback(engine.dispose)
        storage = open_storage(settings)
        stack.push_async_callback(storage.close)
        await _require_folder(storage, settings)
        scratch = open_scratch(settings, storage)
        if scratch is not storage:
            stack.push_async_callback(scratch.close)
        wakeups = await stack.enter_async_context(Wakeups(settings.redis_url))
        queue = open_ring_queue(settings.redis_url)
        stack.push_async_callback(queue.aclose, close_connection_pool=True)
        sessions = make_sessions(engine)
        work = Work(make_locking_sessions(engine), ArqDoorbell(queue, wakeups), wakeups)
        stack.push_async_callback(work.drain)
        requests = RequestCounter.from_settings(settings)
        stack.push_async_callback(requests.close)
        yield Backends(settings, engine, sessions, storage, scratch, wakeups, queue, work, requests)


async def _require_folder(storage: ObjectStore, settings: Settings) -> None:
    """Refuse a folder that cannot be used; a bucket that is away may come back."""
    if not settings.resolved_storage_url.startswith("file:"):
        return
    try:
        await storage.check()
    except StorageError as error:
        name = "STORAGE_URL" if settings.storage_url else "DATA_DIR"
        raise ConfigurationError(f"{name}: the storage folder cannot be used") from error
