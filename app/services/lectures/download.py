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
from uuid import UUID
from weakref import WeakKeyDictionary

import structlog
from sqlalchemy import Interval, func, select, type_coerce

from app.db import ledger
from app.db.ledger import Lease
from app.db.models import Lecture
from app.db.outages import is_outage
from app.domain import JobKind, JobState, LectureFailure
from app.errors import (
    IngestFailed,
    LeaseLost,
    NotReadyYet,
    ObjectNotFound,
    StorageError,
    StorageFull,
)
from app.ingest.fetch.part import discard_part
from app.ingest.model import Attempt, ExtractedAudio, LectureRequest, ResolvedLecture
from app.ingest.pipeline import AudioPipeline
from app.ingest.sandbox.run import ChildKilled
from app.services.kernel.jobs import JobHandler, Lane
from app.services.kernel.kept_alive import kept_alive
from app.services.kernel.local_copy import as_local_file
from app.services.kernel.objects import delete_objects
from app.services.kernel.retry_policy import MAX_ATTEMPTS, backoff, not_ready_delay
from app.services.kernel.storage_keys import audio_key, source_stem
from app.services.kernel.text import readable
from app.services.kernel.unit_of_work import UnitOfWork, Work
from app.services.lectures import attempt_files, states
from app.services.lectures.merging import settle_identity
from app.services.lectures.progress import ProgressWriter
from app.services.lectures.request import MAX_TITLE_CHARACTERS
from app.services.lectures.staging import StagedAudio, staged_audio
from app.services.transcripts.arrival import Arrival
from app.storage.protocol import LocalFiles, ObjectStore
from app.transcript.model import Transcript

log = structlog.get_logger()

RETRIED = "retried"
_RECOVERY_SECONDS = 1.0
_TIDY_SECONDS = 4.0


@dataclass(slots=True)
class _Begun:
    """What a lease has begun: the attempt's temporary keys' stem, and the number before it.

    ``is_placing``: the audio may be in its place, though the row does not say so.
    """

    stem: str
    attempts_before: int
    is_placing: bool = False


@dataclass(frozen=True, slots=True)
class _Result:
    """What an attempt has brought.

    ``confirmed`` is the session that a stream which was brought has proved to be.
    """

    audio: ExtractedAudio
    beside: StagedAudio
    confirmed: str | None
    captions: Transcript | None


class LectureDownloads(JobHandler):
    """What a worker does with a claimed download."""

    kind = JobKind.DOWNLOAD_LECTURE
    lane = Lane.DOWNLOADS

    def __init__(
        self,
        work: Work,
        storage: ObjectStore,
        scratch: LocalFiles,
        pipeline: AudioPipeline,
        arrival: Arrival,
        timeout_seconds: float,
    ) -> None:
        super().__init__(work)
        self._storage = storage
        self._scratch = scratch
        self._stores = [scratch] if storage is scratch else [scratch, storage]
        self._pipeline = pipeline
        self._arrival = arrival
        self._timeout_seconds = timeout_seconds
        self._begun: WeakKeyDictionary[Lease, _Begun] = WeakKeyDictionary()

    async def run(self, lease: Lease) -> str:
        """Bring the lecture to COMPLETED or FAILED, or back to PENDING for a later attempt.

        Raises `LeaseLost` where the job was taken away.  Then, and where it is cancelled, what was
        fetched is left to `forget` or `hand_back`; nothing else is left.
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
            message = "The recording could not be stored."
            trouble = IngestFailed(LectureFailure.INTERNAL, message, transient=True)
            return await self._retry_or_fail(lease, trouble)
        except IngestFailed as failure:
            return await self._retry_or_fail(lease, failure)

    async def abandon(self, lease: Lease) -> None:
        """End the lecture as FAILED with INTERNAL: a fault of ours, or a killer of workers."""
        await self._fail(
            lease, IngestFailed(LectureFailure.INTERNAL, "The recording could not be processed.")
        )

    async def hand_back(self, lease: Lease) -> None:
        """Put the job back for another worker at once, as if this one had not taken it up.

        What was fetched is kept for that one.
        """
        async with self._work.begin() as unit:
            lecture = await self._locked(unit, lease)
            begun = self._begun.get(lease)
            states.take_attempt_back(lecture, begun.attempts_before if begun else None)
            await self._keep(lease)
            await self._announce(unit, lecture.id)
            await ledger.requeue(unit.session, lease, attempt=lease.attempt)
            unit.ring()

    async def forget(self, lease: Lease) -> None:
        """Delete what an attempt that was taken away has fetched; its successor has its own."""
        begun = self._begun.get(lease)
        if begun is not None:
            await discard_part(self._scratch, begun.stem)

    async def _attempt(self, lease: Lease) -> str:
        request, stem, upload_key = await self._start(lease)
        async with ProgressWriter(self._work, lease) as progress, AsyncExitStack() as stack:
            attempt = Attempt(
                self._scratch,
                stem,
                progress.report,
                failed_before=lease.attempt,
                is_last=lease.attempt + 1 >= MAX_ATTEMPTS,
            )
            if upload_key is not None:
                result = await self._heard_upload(stack, attempt, upload_key)
            else:
                result = await self._downloaded(stack, attempt, lease, request)
            await progress.stop()
            return await self._complete(lease, result)

    async def _downloaded(
        self, stack: AsyncExitStack, attempt: Attempt, lease: Lease, request: LectureRequest
    ) -> _Result:
        """Find, fetch and extract; what is temporary lives as long as the stack."""
        with _machine_trouble():
            resolved = await self._pipeline.resolve(request, attempt.report)
        known, confirmed = resolved.session_id, None
        if request.stream_url is not None:  # What somebody brought, its audio alone can tell.
            known, confirmed = None, resolved.session_id
        await self._note_resolution(lease, resolved, known)
        with _machine_trouble():
            audio = await stack.enter_async_context(self._pipeline.audio_of(resolved, attempt))
            beside = await self._staged(stack, attempt)
        captions = await self._pipeline.captions_of(resolved, audio.duration_seconds)
        return _Result(audio, beside, confirmed, captions)

    async def _heard_upload(
        self, stack: AsyncExitStack, attempt: Attempt, upload_key: str
    ) -> _Result:
        """Extract what was uploaded; what is temporary lives as long as the stack."""
        copy = f"{attempt.stem}.upload"
        try:
            with _machine_trouble():
                source = await stack.enter_async_context(
                    as_local_file(self._storage, self._scratch, upload_key, copy)
                )
                audio = await stack.enter_async_context(self._pipeline.audio_in(source, attempt))
                return _Result(audio, await self._staged(stack, attempt), None, None)
        except ObjectNotFound:
            message = "The uploaded file is gone: upload it again."
            raise IngestFailed(LectureFailure.SOURCE_NOT_FOUND, message) from None

    async def _staged(self, stack: AsyncExitStack, attempt: Attempt) -> StagedAudio:
        staged = staged_audio(self._storage, self._scratch, f"{attempt.stem}.m4a")
        return await stack.enter_async_context(staged)

    async def _start(self, lease: Lease) -> tuple[LectureRequest, str, str | None]:
        """Begin an attempt: write it into the row, and take over what earlier ones have left.

        Returns what to look for, the stem of temporary keys, and the key of what was uploaded.
        """
        async with self._work.begin() as unit:
            lecture = await self._locked(unit, lease)
            stem = source_stem(lecture.id, lecture.attempt + 1, lease)
            # Noted before the commit, whose answer may be lost.
            self._begun[lease] = _Begun(stem, lecture.attempt)
            states.begin_attempt(lecture)
            await self._announce(unit, lecture.id)
            request = LectureRequest(
                lecture.id, lecture.panopto_url, lecture.panopto_session_id, lecture.stream_url
            )
            attempt, upload_key = lecture.attempt, lecture.upload_storage_key
            await attempt_files.take_kept(self._scratch, lecture.id, stem)
        if attempt > 1 or lease.crashes > 0:
            await attempt_files.take_from_killed(self._scratch, lease.subject_id, attempt, stem)
        if lease.crashes > 0 and self._storage is not self._scratch:
            await attempt_files.discard_all(self._storage, lease.subject_id, attempt)
        return request, stem, upload_key

    async def _note_resolution(
        self, lease: Lease, resolved: ResolvedLecture, session_id: str | None
    ) -> None:
        """Keep the title and the session; a lecture that was merged into another stops here."""
        async with self._work.begin() as unit:
            merged = await self._is_merged_away(unit, lease, session_id)
            if not merged:
                lecture = await self._locked(unit, lease)
                lecture.title = lecture.title or _title(resolved.title)
                lecture.platform = resolved.platform or lecture.platform
                await self._announce(unit, lecture.id)
        if merged:
            raise LeaseLost

    async def _is_merged_away(
        self, unit: UnitOfWork, lease: Lease, session_id: str | None, *, is_done: bool = False
    ) -> bool:
        if session_id is None:
            return False
        survivor = await settle_identity(unit, lease, session_id, is_done=is_done)
        return survivor is None or survivor.id != lease.subject_id

    async def _complete(self, lease: Lease, result: _Result) -> str:
        """End the lecture as COMPLETED; a database that is away is waited for."""
        prepared = await self._arrival.prepare(result.captions)
        while True:
            try:
                return await self._publish(lease, result, prepared)
            except Exception as error:
                if not is_outage(error):
                    raise
                log.warning("completion_waits", reason=type(error).__name__)
            await asyncio.sleep(_RECOVERY_SECONDS)

    async def _publish(
        self, lease: Lease, result: _Result, prepared: tuple[UUID, str] | None
    ) -> str:
        """Put the audio in its place and end the lecture, in one transaction.

        The object is moved under the lecture's row lock: a cancel, an unlink or a successor waits
        for it, and a worker whose lease is gone puts nothing.  A stream is confirmed here and not
        before: what others hear must be these bytes, not those of a later attempt.
        """
        key = audio_key(lease.subject_id)
        garbage: list[str] = []
        async with self._work.begin() as unit:
            merged = await self._is_merged_away(unit, lease, result.confirmed, is_done=True)
            if not merged:
                lecture = await self._locked(unit, lease)
                self._begun[lease].is_placing = True
                async with kept_alive(unit.session):
                    with _machine_trouble():
                        await result.beside.place(key)
                states.complete(
                    lecture, key, result.audio.size_bytes, result.audio.duration_seconds
                )
                if result.confirmed is not None:
                    lecture.stream_url = None
                await self._arrival.settle(unit, lecture, result.captions, prepared)
                garbage = states.forget_upload(lecture)
                await self._announce(unit, lecture.id)
                await ledger.finish(unit.session, lease)
        if merged:
            raise LeaseLost
        await delete_objects(self._storage, garbage)
        return JobState.DONE

    async def _wait(self, lease: Lease, reason: NotReadyYet) -> str:
        """Ask again later.  That the source answers well forgives what went wrong before."""
        async with self._work.begin() as unit:
            lecture = await self._locked(unit, lease)
            since = type_coerce(func.now() - Lecture.started_at, Interval)
            waited = await unit.session.scalar(select(since).where(Lecture.id == lecture.id))
            delay = not_ready_delay(waited or timedelta(0))
            if delay is not None:
                states.postpone(lecture, delay, reason.message)
                await self._keep(lease)
                await self._announce(unit, lecture.id)
                await ledger.requeue(
                    unit.session, lease, delay=delay, attempt=0, forgive_crashes=True
                )
                return RETRIED
        message = "The recording was not ready within 24 hours."
        return await self._fail(lease, IngestFailed(LectureFailure.TIMEOUT, message))

    async def _retry_or_fail(self, lease: Lease, failure: IngestFailed) -> str:
        """Try again later, with what was fetched, where that may help."""
        attempts = lease.attempt + 1
        if not failure.transient or attempts >= MAX_ATTEMPTS:
            return await self._fail(lease, failure)
        delay = backoff(lease.attempt, failure.retry_after_seconds)
        async with self._work.begin() as unit:
            lecture = await self._locked(unit, lease)
            states.postpone(lecture, delay, failure.message)
            await self._keep(lease)
            await self._announce(unit, lecture.id)
            error = failure.message
            await ledger.requeue(unit.session, lease, delay=delay, attempt=attempts, error=error)
        return RETRIED

    async def _fail(self, lease: Lease, failure: IngestFailed) -> str:
        async with self._work.begin() as unit:
            lecture = await self._locked(unit, lease)
            states.fail(lecture, failure.failure, failure.message)
            garbage = states.forget_upload(lecture)
            async with kept_alive(unit.session), _left_to_the_sweep():
                await self._discard(lease, lecture.attempt)
            await self._announce(unit, lecture.id)
            await ledger.finish(unit.session, lease, JobState.FAILED, failure.message)
        await delete_objects(self._storage, garbage)
        return JobState.FAILED

    async def _keep(self, lease: Lease) -> None:
        """Keep what the lease's attempt has fetched.  Under the lock: the next one takes it."""
        begun = self._begun.get(lease)
        if begun is None:
            return
        async with _left_to_the_sweep():
            await attempt_files.keep(self._scratch, lease.subject_id, begun.stem)
            if begun.is_placing:
                await self._storage.delete_file(audio_key(lease.subject_id))

    async def _discard(self, lease: Lease, attempt: int) -> None:
        """Delete what attempts have fetched or put.

        Under the row lock no other attempt can have put an object since.
        """
        begun = self._begun.get(lease)
        if begun is not None:
            await discard_part(self._scratch, begun.stem)
        await self._scratch.delete_files(attempt_files.kept_keys(lease.subject_id))
        if lease.crashes > 0:
            for store in self._stores:
                await attempt_files.discard_all(store, lease.subject_id, attempt)
        await self._storage.delete_file(audio_key(lease.subject_id))

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
async def _left_to_the_sweep() -> AsyncIterator[None]:
    """Tidy for a moment; what a store in trouble does not let go is no reason to do no more."""
    try:
        async with asyncio.timeout(_TIDY_SECONDS):
            yield
    except (StorageError, OSError):
        log.warning("files_left_to_the_sweep", exc_info=True)


@contextmanager
def _machine_trouble() -> Iterator[None]:
    """Call what this machine lacks (processes, memory, files) by a name, and try again later.

    A child that was killed is a lack of memory, as a rule.
    """
    try:
        yield
    except (OSError, ChildKilled) as error:
        log.exception("machine_trouble")
        message = "The recording could not be processed."
        raise IngestFailed(LectureFailure.INTERNAL, message, transient=True) from error


def _title(title: str | None) -> str | None:
    """Return a source's title as it can be stored and read; None where nothing of it shows."""
    kept = (title or "").encode("utf-8", "ignore").decode()
    return readable((readable(kept) or "")[:MAX_TITLE_CHARACTERS])
