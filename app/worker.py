"""The worker process: everything that it needs, opened; SIGTERM and SIGINT, heard."""

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from app.backends import CLOSE_SECONDS, Backends, closing_in_time, open_backends
from app.cancellation import ended
from app.db.engine import make_engine, make_sessions
from app.ingest.extract import PyAvAudioExtractor
from app.ingest.pdf import count_pages, page_texts
from app.ingest.pipeline import AudioPipeline
from app.ingest.sources.ytdlp.source import require_known
from app.jobs.doorbell import open_ring_queue
from app.jobs.lanes import lanes_of
from app.jobs.runner import (
    DATABASE_TROUBLE,
    HEARTBEAT_SECONDS,
    RECOVERY_SECONDS,
    JobRunner,
)
from app.jobs.worker import RingWorker
from app.llm.client import LanguageModel
from app.observability import configure_logging
from app.services.documents.page_counts import PageCounts
from app.services.kernel.jobs import JobHandler
from app.services.kernel.unit_of_work import Work
from app.services.lectures.download import LectureDownloads
from app.services.search.index import Indexing
from app.services.search.summarize import Summaries
from app.services.topics.judge_job import TopicJudgements
from app.services.transcripts.arrival import Arrival
from app.services.transcripts.transcribe import Transcriptions
from app.services.upkeep.store_sweep import StoreSweep, interval_of, sweep_forever
from app.services.upkeep.sweep import Sweep, plan_sweep
from app.settings import Settings

log = structlog.get_logger()


def make_handlers(backends: Backends) -> list[JobHandler]:
    """Return a handler for every kind of job."""
    settings = backends.settings
    # What transcribes every lecture that has no captions; None where nothing does.
    models = backends.transcriber.models if settings.auto_transcribe else ()
    model_for_all = next(iter(models), None)
    pipeline = AudioPipeline(
        backends.downloader, PyAvAudioExtractor(), settings.download_timeout_seconds
    )
    downloads = LectureDownloads(
        backends.work,
        backends.storage,
        backends.scratch,
        pipeline,
        Arrival(backends.storage, model_for_all),
        settings.download_timeout_seconds,
    )
    transcriptions = Transcriptions(
        backends.work,
        backends.storage,
        backends.scratch,
        backends.transcriber,
        keeps_audio=settings.audio_retention == "keep",
    )
    pages = PageCounts(backends.work, backends.storage, backends.scratch, count_pages)
    language_model = LanguageModel.from_settings(settings)
    indexing = Indexing(
        backends.work,
        backends.storage,
        backends.scratch,
        backends.embedder,
        page_texts,
        language_model,
    )
    topics = TopicJudgements(backends.work, backends.embedder, settings.topic_threshold)
    summaries = Summaries(backends.work, language_model, settings.llm_max_tokens)
    sweep = Sweep(backends.work, backends.storage, settings.sweep_grace_seconds)
    return [downloads, transcriptions, pages, indexing, topics, summaries, sweep]


@asynccontextmanager
async def open_worker(settings: Settings) -> AsyncIterator[JobRunner]:
    """Open a worker whose doorbell is answered; its runner is not started yet."""
    async with closing_in_time(CLOSE_SECONDS) as stack:
        await require_known(settings.sources)
        backends = await stack.enter_async_context(open_backends(settings))
        if settings.whisper_models:  # What was installed with the service was checked then.
            await backends.transcriber.check()
        handlers = make_handlers(backends)
        lanes = lanes_of(handlers, settings, can_transcribe=bool(backends.transcriber.models))
        # Sessions for the runner alone: no job's transaction may delay a heartbeat.  What is slower
        # than a heartbeat is given up, and made anew.  Each statement commits by itself, so that a
        # process that is stopped holds no lock on the ledger.
        engine = make_engine(
            settings.database_url or "", pool_size=3, command_timeout_seconds=HEARTBEAT_SECONDS
        )
        stack.push_async_callback(engine.dispose)
        sessions = make_sessions(engine.execution_options(isolation_level="AUTOCOMMIT"))
        runner = JobRunner(sessions, backends.wakeups, lanes)
        queue = open_ring_queue(settings.redis_url or "")
        stack.push_async_callback(queue.aclose, close_connection_pool=True)
        doorbell = RingWorker(queue, backends.wakeups, runner)
        await stack.enter_async_context(doorbell.answering())
        _run_beside(stack, _plan_sweep(backends.work))
        if backends.scratch is not backends.storage:
            grace = settings.sweep_grace_seconds
            scratch = StoreSweep(backends.work, backends.scratch, grace)
            _run_beside(stack, sweep_forever(scratch, interval_of(grace)))
        yield runner


async def _plan_sweep(work: Work) -> None:
    while True:
        try:
            await plan_sweep(work)
            return
        except DATABASE_TROUBLE:
            log.warning("database_unreachable")
            await asyncio.sleep(RECOVERY_SECONDS)


def _run_beside(stack: AsyncExitStack, work: Coroutine[None, None, None]) -> None:
    """Run it until the stack ends."""
    task = asyncio.create_task(work)

    async def end() -> None:
        task.cancel()
        await ended(task)

    stack.push_async_callback(end)


async def run_worker(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then hand back what is held."""
    configure_logging(settings)
    async with open_worker(settings) as runner:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, runner.stop)
        log.info("worker_started", concurrency=settings.worker_concurrency)
        await runner.run()
        log.info("worker_stopped")
