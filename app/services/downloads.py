"""The download job: a lecture's row carried through the audio pipeline, under a lease.

Every change of the row is fenced: it is made under the lecture's row lock, in a transaction that
names the lease's token, so a worker that was taken over changes nothing.  The server ends the
transactions of a worker that was stopped in the middle of one (`app.worker`), and frees the lock.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID
from weakref import WeakKeyDictionary

import structlog
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.cancellation import ended
from app.db import ledger
from app.db.ledger import Lease
from app.db.models import Lecture
from app.domain import DownloadStage, JobKind, JobState, LectureFailure, LectureStatus
from app.errors import IngestFailed, LeaseLost, NotReadyYet, StorageError, StorageFull
from app.ingest.part_file import hand_over, is_part
from app.ingest.pipeline import AudioPipeline
from app.ingest.protocols import ExtractedAudio, LectureRequest, ResolvedLecture
from app.services.lecture_requests import (
    MAX_TITLE_CHARACTERS,
    clear_progress,
    mark_failed,
)
from app.services.merging import settle_identity
from app.services.progress import ProgressWriter
from app.services.removal import delete_objects
from app.services.retry_policy import MAX_ATTEMPTS, backoff, not_ready_delay
from app.services.storage_keys import audio_key, source_stem
from app.services.text import is_storable
from app.services.unit_of_work import UnitOfWork, Work
from app.storage.protocol import LocalFiles, ObjectStore

log = structlog.get_logger()

RETRIED = "retried"
_READ_BYTES = 1024 * 1024
_SIGN_OF_LIFE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Attempt:
    request: LectureRequest
    stem: str


class LectureDownloads:
    """What a worker does with a claimed download."""

    kind = JobKind.DOWNLOAD_LECTURE

    def __init__(
        self,
        work: Work,
        storage: ObjectStore,
        scratch: LocalFiles,
        pipeline: AudioPipeline,
        timeout_seconds: float,
    ) -> None:
        self._work = work
        self._storage = storage
        self._scratch = scratch
        self._pipeline = pipeline
        self._timeout_seconds = timeout_seconds
        self._attempts_before: WeakKeyDictionary[Lease, int] = WeakKeyDictionary()

    async def run(self, lease: Lease) -> str:
        """Bring the lecture to COMPLETED or FAILED, or back to PENDING for a later attempt.

        Raises `LeaseLost` where the job was taken away; cancelled, it leaves no file.
        """
        try:
            async with asyncio.timeout(self._timeout_seconds) as deadline:
                return await self._attempt(lease)
        except TimeoutError:
            if not deadline.expired():  # Some other wait's: the database's, as a rule.
                raise
            message = "The download took too long."
            return await self._fail(lease, IngestFailed(LectureFailure.TIMEOUT, message))
        except NotReadyYet as reason:
            return await self._wait(lease, reason)
        except StorageFull:
            message = "There is no room left to store the recording."
            return await self._fail(lease, IngestFailed(LectureFailure.INTERNAL, message))
        except StorageError:
            log.exception("storage_failed", lecture_id=str(lease.subject_id))
            return await self._retry_or_fail(lease, _storage_trouble())
        except IngestFailed as failure:
            return await self._retry_or_fail(lease, failure)

    async def abandon(self, lease: Lease) -> None:
        """End the lecture as FAILED with INTERNAL: a fault of ours, or a killer of workers."""
        await self._fail(
            lease, IngestFailed(LectureFailure.INTERNAL, "The recording could not be processed.")
        )

    async def hand_back(self, lease: Lease) -> None:
        """Put the job back for another worker at once, as if this one had not taken it up."""
        async with self._work.begin() as unit:
            lecture = await self._locked(unit, lease)
            lecture.status = LectureStatus.PENDING
            lecture.attempt = self._attempts_before.get(lease, lecture.attempt)
            clear_progress(lecture)
            await self._announce(unit, lecture.id)
            await ledger.requeue(unit.session, lease, attempt=lease.attempt)
            unit.ring()

    async def _attempt(self, lease: Lease) -> str:
        attempt = await self._start(lease)
        async with ProgressWriter(self._work, lease) as progress, AsyncExitStack() as stack:
            with _machine_trouble():
                resolved = await self._pipeline.resolve(attempt.request, progress.report)
            await self._note_resolution(lease, resolved)
            audio_of = self._pipeline.audio_of(resolved, attempt.stem, progress.report)
            with _machine_trouble():
                audio = await stack.enter_async_context(audio_of)
            await progress.stop()
            return await self._complete(lease, audio)

    async def _start(self, lease: Lease) -> _Attempt:
        async with self._work.begin() as unit:
            lecture = await self._locked(unit, lease)
            # Noted before the commit, whose answer may be lost.
            self._attempts_before[lease] = lecture.attempt
            lecture.status = LectureStatus.DOWNLOADING
            lecture.attempt += 1
            lecture.started_at = lecture.started_at or func.now()
            lecture.failure = lecture.error_message = lecture.next_attempt_at = None
            clear_progress(lecture)
            lecture.stage = DownloadStage.RESOLVING
            await self._announce(unit, lecture.id)
            request = LectureRequest(
                lecture.id, lecture.panopto_url, lecture.panopto_session_id, lecture.stream_url
            )
            attempt, stem = lecture.attempt, source_stem(lecture.id, lecture.attempt, lease)
        if attempt > 1:
            await self._clear_earlier_attempts(lease.subject_id, stem)
        return _Attempt(request, stem)

    async def _clear_earlier_attempts(self, lecture_id: UUID, stem: str) -> None:
        """Take over the part that a killed worker left, and delete all else that it did.

        No one else may work on this lecture now.
        """
        async for found in self._scratch.list_files(f"audio/{lecture_id}_source."):
            if found.key.startswith(f"{stem}."):
                continue
            if is_part(found.key):
                await asyncio.to_thread(hand_over, self._scratch, found.key, stem)
            else:
                await self._scratch.delete_file(found.key)

    async def _note_resolution(self, lease: Lease, resolved: ResolvedLecture) -> None:
        """Keep the title and the session; a lecture that was merged into another stops here."""
        async with self._work.begin() as unit:
            merged = await self._is_merged_away(unit, lease, resolved.session_id)
            if not merged:
                lecture = await self._locked(unit, lease)
                lecture.title = lecture.title or _title(resolved.title)
                await self._announce(unit, lecture.id)
        if merged:
            raise LeaseLost

    async def _is_merged_away(self, unit: UnitOfWork, lease: Lease, session_id: str | None) -> bool:
        if session_id is None:
            return False
        survivor = await settle_identity(unit, lease.subject_id, session_id)
        return survivor is None or survivor.id != lease.subject_id

    async def _complete(self, lease: Lease, audio: ExtractedAudio) -> str:
        """Store the audio and end the lecture as COMPLETED.

        The object is put in place under the lecture's row lock: a cancel, an unlink or a successor
        waits for it, and a worker whose lease is gone puts nothing.
        """
        key = audio_key(lease.subject_id)
        async with self._work.begin() as unit:
            lecture = await self._locked(unit, lease)
            async with _kept_alive(unit.session):
                await self._store(key, audio.path)
            lecture.status = LectureStatus.COMPLETED
            lecture.audio_storage_key = key
            lecture.duration_seconds = round(audio.duration_seconds)
            lecture.completed_at = func.now()
            clear_progress(lecture)
            await self._announce(unit, lecture.id)
            await ledger.finish(unit.session, lease)
        return JobState.DONE

    async def _store(self, key: str, path: Path) -> None:
        if self._scratch is self._storage:
            await self._scratch.adopt_file(key, path)
        else:
            await self._storage.store_file(key, _read(path))
            await asyncio.to_thread(path.unlink)  # COMPLETED promises that none is left.

    async def _retry_or_fail(self, lease: Lease, failure: IngestFailed) -> str:
        attempts = lease.attempt + 1
        if not failure.transient or attempts >= MAX_ATTEMPTS:
            return await self._fail(lease, failure)
        delay = backoff(lease.attempt, failure.retry_after_seconds)
        return await self._postpone(lease, delay, attempts, failure.message)

    async def _wait(self, lease: Lease, reason: NotReadyYet) -> str:
        delay = not_ready_delay(lease.age)
        if delay is not None:
            return await self._postpone(lease, delay, lease.attempt, reason.message)
        message = "The recording was not ready within 24 hours."
        return await self._fail(lease, IngestFailed(LectureFailure.TIMEOUT, message))

    async def _postpone(self, lease: Lease, delay: timedelta, attempts: int, message: str) -> str:
        async with self._work.begin() as unit:
            lecture = await self._locked(unit, lease)
            lecture.status = LectureStatus.PENDING
            lecture.next_attempt_at = func.now() + delay
            lecture.error_message = message
            clear_progress(lecture)
            await self._announce(unit, lecture.id)
            await ledger.requeue(unit.session, lease, delay=delay, attempt=attempts, error=message)
        return RETRIED

    async def _fail(self, lease: Lease, failure: IngestFailed) -> str:
        async with self._work.begin() as unit:
            lecture = await self._locked(unit, lease)
            mark_failed(lecture, failure.failure, failure.message)
            # An attempt that died between object and row leaves the object; under the row lock no
            # other attempt can have put one since.  A store that fails leaves it to the sweep.
            async with _kept_alive(unit.session):
                await delete_objects(self._storage, [audio_key(lecture.id)])
            await self._announce(unit, lecture.id)
            await ledger.finish(unit.session, lease, JobState.FAILED, failure.message)
        return JobState.FAILED

    async def _locked(self, unit: UnitOfWork, lease: Lease) -> Lecture:
        """Lock the lecture and check the lease; the lecture first, as everyone does."""
        query = select(Lecture).where(Lecture.id == lease.subject_id).with_for_update()
        lecture = await unit.session.scalar(query.execution_options(populate_existing=True))
        if lecture is None:
            raise LeaseLost
        await ledger.require_lease(unit.session, lease)
        return lecture

    async def _announce(self, unit: UnitOfWork, lecture_id: UUID) -> None:
        await unit.session.flush()
        await unit.wake_lecture(lecture_id)


@asynccontextmanager
async def _kept_alive(session: AsyncSession) -> AsyncIterator[None]:
    """Keep the transaction from looking idle while the block does something else."""
    pinging = asyncio.create_task(_ping(session))
    try:
        yield
    finally:
        pinging.cancel()
        await ended(pinging)


async def _ping(session: AsyncSession) -> None:
    while True:
        await asyncio.sleep(_SIGN_OF_LIFE_SECONDS)
        # Shielded: a statement that is cut short would end the connection, and the transaction.
        ping = asyncio.ensure_future(session.execute(text("SELECT")))
        try:
            await asyncio.shield(ping)
        finally:
            await ended(ping)


@contextmanager
def _machine_trouble() -> Iterator[None]:
    """Call what this machine lacks (processes, memory, files) by a name, and try again later."""
    try:
        yield
    except OSError as error:
        log.exception("machine_trouble")
        message = "The recording could not be processed."
        raise IngestFailed(LectureFailure.INTERNAL, message, transient=True) from error


def _storage_trouble() -> IngestFailed:
    message = "The recording could not be stored."
    return IngestFailed(LectureFailure.INTERNAL, message, transient=True)


def _title(title: str | None) -> str | None:
    title = (title or "").strip()[:MAX_TITLE_CHARACTERS]
    return title if title and is_storable(title) else None


async def _read(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, _READ_BYTES):
            yield chunk
