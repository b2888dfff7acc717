"""What the API and the worker both stand on, opened and closed in one place."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.db.engine import make_engine, make_locking_sessions, make_sessions
from app.embedder.onnx import OnnxEmbedder, open_embedder
from app.errors import ConfigurationError, StorageError
from app.events.wakeups import Wakeups
from app.ingest.fetch.downloader import MediaDownloader
from app.jobs.doorbell import ArqDoorbell, open_ring_queue
from app.services.kernel.live import Lookout
from app.services.kernel.quotas import RequestCounter
from app.services.kernel.unit_of_work import Work
from app.services.lectures.preview import Previews
from app.settings import Settings
from app.speech.whisper import WhisperTranscriber, make_transcriber
from app.started import announce_start
from app.storage.factory import open_scratch, open_storage
from app.storage.protocol import LocalFiles, ObjectStore

log = structlog.get_logger()

CLOSE_SECONDS = 1.5
"""With the ten of the running requests less than the twelve after which a process is killed."""

_MAX_CUTS = 16
_CUT_SECONDS = 0.05

_WRONG_FOLDER = {
    errno.EACCES,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
"""What no patience mends: the folder is not there and cannot be made, or is not ours to write."""


@dataclass(frozen=True, slots=True)
class Backends:
    """Open connections to everything outside this process."""

    settings: Settings
    engine: AsyncEngine
    sessions: async_sessionmaker[AsyncSession]
    lookout: Lookout
    storage: ObjectStore
    scratch: LocalFiles
    wakeups: Wakeups
    redis: Redis
    work: Work
    requests: RequestCounter
    transcriber: WhisperTranscriber
    embedder: OnnxEmbedder | None
    downloader: MediaDownloader
    previews: Previews


@asynccontextmanager
async def open_backends(settings: Settings) -> AsyncIterator[Backends]:
    """Open the backends; on leaving, announce what has committed and close them in reverse.

    Neither waits for one that hangs, or for a storage that is full.
    """
    if settings.database_url is None or settings.redis_url is None:
        raise ConfigurationError("DATABASE_URL and REDIS_URL: both must be known here")
    async with closing_in_time(CLOSE_SECONDS) as stack:
        engine = make_engine(settings.database_url)
        stack.push_async_callback(engine.dispose)
        storage = await _open_storage(settings, stack)
        # Closed a second time, where it is the storage.
        scratch = _closed_by(stack, open_scratch(settings, storage))
        wakeups = await stack.enter_async_context(Wakeups(settings.redis_url))
        queue = open_ring_queue(settings.redis_url)
        stack.push_async_callback(queue.aclose, close_connection_pool=True)
        sessions = make_sessions(engine)
        work = Work(make_locking_sessions(engine), ArqDoorbell(queue, wakeups), wakeups)
        stack.push_async_callback(work.drain)
        downloader = _closed_by(stack, MediaDownloader.from_settings(settings))
        embedder = await stack.enter_async_context(open_embedder(settings))
        announce_start()
        yield Backends(
            settings,
            engine,
            sessions,
            Lookout(sessions),
            storage,
            scratch,
            wakeups,
            queue,
            work,
            _closed_by(stack, RequestCounter.from_settings(settings)),
            make_transcriber(settings),
            embedder,
            downloader,
            Previews(downloader, settings.panopto_hosts),
        )


@asynccontextmanager
async def closing_in_time(seconds: float) -> AsyncIterator[AsyncExitStack]:
    """Give a stack that is unwound in about ``seconds`` all together, whatever hangs.

    What is not closed by then is cut short, and ends with the process.
    """
    stack = AsyncExitStack()
    try:
        yield stack
    finally:
        closing = asyncio.create_task(stack.aclose())
        await asyncio.wait([closing], timeout=seconds)
        if closing.done():
            closing.result()
        else:
            log.warning("closing_cut_short")
            # The stack goes on from what hangs to the next, which may hang as well.
            for _ in range(_MAX_CUTS):
                closing.cancel()
                if (await asyncio.wait([closing], timeout=_CUT_SECONDS))[0]:
                    await asyncio.gather(closing, return_exceptions=True)
                    break


class _Closable(Protocol):
    async def close(self) -> None: ...


Kept = TypeVar("Kept", bound=_Closable)


def _closed_by(stack: AsyncExitStack, opened: Kept) -> Kept:
    stack.push_async_callback(opened.close)
    return opened


async def _open_storage(settings: Settings, stack: AsyncExitStack) -> ObjectStore:
    """Refuse a folder that cannot be used; one that is full, or a bucket, may come back."""
    storage = _closed_by(stack, open_storage(settings))
    if not settings.resolved_storage_url.startswith("file:"):
        return storage
    try:
        await storage.check()
    except StorageError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in _WRONG_FOLDER:
            log.warning("storage_unusable", reason=error.message)
        else:
            name = "STORAGE_URL" if settings.storage_url else "DATA_DIR"
            raise ConfigurationError(f"{name}: the storage folder cannot be used") from error
    return storage
