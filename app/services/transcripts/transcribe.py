"""The transcription job: a lecture's audio heard window by window, under a lease.

What a window says is a row before the next one is heard, so that whoever takes over goes on there.
Every change is fenced: it is made in a transaction that names the lease's token.
"""

import time
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy import delete, exists, select, text
from sqlalchemy.dialects.postgresql import insert

from app.db import ledger
from app.db.ledger import Lease
from app.db.models import Lecture, Transcription, TranscriptionWindow
from app.db.outages import is_outage
from app.domain import (
    JobKind,
    JobState,
    TranscriptionFailure,
    TranscriptionSource,
    TranscriptionWarning,
)
from app.errors import LeaseLost, ObjectNotFound, StorageError
from app.services.kernel.jobs import JobHandler, Lane, open_index_job
from app.services.kernel.local_copy import as_local_file
from app.services.kernel.objects import delete_objects
from app.services.kernel.retry_policy import MAX_ATTEMPTS, backoff
from app.services.kernel.storage_keys import transcription_key
from app.services.kernel.unit_of_work import UnitOfWork, Work
from app.services.transcripts import states
from app.services.transcripts.payload import settle_current, store
from app.services.transcripts.request import wake
from app.speech.transcriber import WINDOW, Heard, Opening, SpeechFailed, Transcriber, Window
from app.storage.protocol import LocalFiles, ObjectStore
from app.transcript.model import Transcript

log = structlog.get_logger()

RETRIED = "retried"
_PROGRESS_SECONDS = 1.0
_GONE = "The audio is not there any more."
_PROGRESS = text(
    """
    UPDATE transcriptions SET progress = :progress
    WHERE id = :id AND status = 'processing'
      AND EXISTS (SELECT FROM jobs WHERE jobs.id = :job_id AND jobs.lease_token = :token)
    RETURNING ARRAY(SELECT user_id FROM user_lectures
                    WHERE user_lectures.lecture_id = transcriptions.lecture_id)
    """
)


@dataclass(slots=True)
class _Task:
    """What is to be heard, and what a predecessor has heard of it."""

    model: str
    language: str | None
    audio_key: str | None
    opening: Opening | None
    windows: list[Window]


class Transcriptions(JobHandler):
    """What a worker with models does with a claimed transcription."""

    kind = JobKind.TRANSCRIBE
    lane = Lane.TRANSCRIPTIONS

    def __init__(
        self,
        work: Work,
        storage: ObjectStore,
        scratch: LocalFiles,
        transcriber: Transcriber,
        *,
        keeps_audio: bool = True,
    ) -> None:
        super().__init__(work)
        self._storage = storage
        self._scratch = scratch
        self._transcriber = transcriber
        self._keeps_audio = keeps_audio

    async def run(self, lease: Lease) -> str:
        """Bring it to COMPLETED or FAILED, or back to PENDING for a later attempt."""
        task = await self._start(lease)
        copy = f"{transcription_key(lease.subject_id)}.{lease.token.hex[:8]}.m4a"
        try:
            if task.audio_key is None:
                raise SpeechFailed(TranscriptionFailure.NO_AUDIO, _GONE)
            async with as_local_file(self._storage, self._scratch, task.audio_key, copy) as audio:
                await self._hear(lease, task, audio)
            return await self._complete(lease, task)
        except SpeechFailed as failure:
            return await self._retry_or_fail(lease, failure)
        except ObjectNotFound:
            return await self._retry_or_fail(
                lease, SpeechFailed(TranscriptionFailure.NO_AUDIO, _GONE, transient=True)
            )
        except (StorageError, OSError) as error:
            if is_outage(error):
                raise
            log.exception("transcription_failed", transcription_id=str(lease.subject_id))
            message = "The audio could not be transcribed."
            trouble = SpeechFailed(TranscriptionFailure.INTERNAL, message, transient=True)
            return await self._retry_or_fail(lease, trouble)

    async def abandon(self, lease: Lease) -> None:
        """End it as FAILED with INTERNAL: a fault of ours, or a killer of workers."""
        message = "The audio could not be transcribed."
        await self._fail(lease, SpeechFailed(TranscriptionFailure.INTERNAL, message))

    async def hand_back(self, lease: Lease) -> None:
        """Put the job back for another worker at once; what was heard is kept."""
        async with self._work.begin() as unit:
            row = await self._locked(unit, lease)
            states.postpone(row)
            await self._announce(unit, row)
            await ledger.requeue(unit.session, lease, attempt=lease.attempt)
            unit.ring()

    async def _start(self, lease: Lease) -> _Task:
        async with self._work.begin() as unit:
            row = await self._locked(unit, lease)
            lecture = await unit.session.get_one(Lecture, row.lecture_id)
            heard = select(TranscriptionWindow.content).where(
                TranscriptionWindow.transcription_id == row.id
            )
            contents = await unit.session.scalars(heard.order_by(TranscriptionWindow.number))
            windows = [WINDOW.validate_python(each, strict=False) for each in contents]
            states.begin(row)
            await self._announce(unit, row)
            opening = None
            if row.duration_seconds is not None:
                warnings = frozenset(map(TranscriptionWarning, row.warnings))
                opening = Opening(row.language, row.duration_seconds, warnings)
            return _Task(
                row.model_name or "",
                row.forced_language,
                lecture.audio_storage_key,
                opening,
                windows,
            )

    async def _hear(self, lease: Lease, task: _Task, audio: Path) -> None:
        last_told = time.monotonic()

        async def report(seconds: float) -> None:
            nonlocal last_told
            if task.opening and time.monotonic() - last_told >= _PROGRESS_SECONDS:
                last_told = time.monotonic()
                try:
                    await self._tell_progress(lease, seconds / task.opening.duration_seconds)
                except Exception as error:
                    if not is_outage(error):
                        raise
                    log.warning("progress_unwritten", reason=type(error).__name__)

        hearing = self._transcriber.transcribe(
            audio,
            model=task.model,
            language=task.language,
            heard=Heard(task.opening, list(task.windows)),
            report=report,
        )
        async with aclosing(hearing):
            async for each in hearing:
                if isinstance(each, Opening):
                    task.opening = each
                    await self._keep_opening(lease, each)
                else:
                    await self._keep_window(lease, len(task.windows), each)
                    task.windows.append(each)

    async def _tell_progress(self, lease: Lease, part: float) -> None:
        parameters = {
            "progress": min(100.0, max(0.0, 100.0 * part)),
            "id": lease.subject_id,
            "job_id": lease.job_id,
            "token": lease.token,
        }
        async with self._work.begin() as unit:
            # One statement that holds no lock longer than it takes.
            await unit.session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
            users = (await unit.session.execute(_PROGRESS, parameters)).scalar_one_or_none()
            if users is None:
                raise LeaseLost
            unit.wake("transcription", lease.subject_id, *users)

    async def _keep_opening(self, lease: Lease, opening: Opening) -> None:
        async with self._work.begin() as unit:
            row = await self._locked(unit, lease)
            row.language, row.duration_seconds = opening.language, opening.duration_seconds
            row.warnings = sorted(opening.warnings)
            await self._announce(unit, row)

    async def _keep_window(self, lease: Lease, number: int, window: Window) -> None:
        async with self._work.begin() as unit:
            await self._locked(unit, lease)
            content = WINDOW.dump_python(window, mode="json")
            kept = insert(TranscriptionWindow).values(
                transcription_id=lease.subject_id, number=number, content=content
            )
            await unit.session.execute(kept)

    async def _complete(self, lease: Lease, task: _Task) -> str:
        """Put the payload into its place, and the row's end behind it."""
        opening = task.opening
        if opening is None:
            raise RuntimeError("a transcriber tells its opening first")
        segments = tuple(segment for window in task.windows for segment in window.segments)
        kind = TranscriptionSource.SPEECH_RECOGNITION
        transcript = Transcript(
            kind, opening.language, task.model, opening.duration_seconds, segments
        )
        key = await store(self._storage, lease.subject_id, transcript)
        async with self._work.begin() as unit:
            lecture, row = await self._both_locked(unit, lease)
            warnings = opening.warnings.union(*(window.warnings for window in task.windows))
            row.warnings = sorted(warnings)
            states.complete(row, key, len(transcript.text), transcript.confidence)
            await unit.session.execute(
                delete(TranscriptionWindow).where(TranscriptionWindow.transcription_id == row.id)
            )
            garbage = await settle_current(unit, self._storage, lecture)
            if lecture.audio_storage_key is not None and not await self._needs_audio(unit, row):
                garbage.append(lecture.audio_storage_key)
                lecture.audio_storage_key = lecture.audio_bytes = None
            await open_index_job(unit, row.id, row.requested_by)
            await self._announce(unit, row)
            await unit.wake_lecture(lecture.id)
            await ledger.finish(unit.session, lease)
        await delete_objects(self._storage, garbage)
        return JobState.DONE

    async def _needs_audio(self, unit: UnitOfWork, row: Transcription) -> bool:
        """Whether the audio stays: for good, or until another model has heard it too."""
        others = exists().where(
            Transcription.lecture_id == row.lecture_id,
            Transcription.id != row.id,
            Transcription.status.in_(states.RUNNING),
        )
        return self._keeps_audio or bool(await unit.session.scalar(select(others)))

    async def _retry_or_fail(self, lease: Lease, failure: SpeechFailed) -> str:
        attempts = lease.attempt + 1
        if not failure.transient or attempts >= MAX_ATTEMPTS:
            await self._fail(lease, failure)
            return JobState.FAILED
        async with self._work.begin() as unit:
            row = await self._locked(unit, lease)
            states.postpone(row, failure.message)
            await self._announce(unit, row)
            await ledger.requeue(
                unit.session,
                lease,
                delay=backoff(lease.attempt),
                attempt=attempts,
                error=failure.message,
            )
        return RETRIED

    async def _fail(self, lease: Lease, failure: SpeechFailed) -> None:
        async with self._work.begin() as unit:
            row = await self._locked(unit, lease)
            states.fail(row, failure.failure, failure.message)
            await self._announce(unit, row)
            await ledger.finish(unit.session, lease, JobState.FAILED, failure.message)

    async def _locked(self, unit: UnitOfWork, lease: Lease) -> Transcription:
        """Lock the transcription and check the lease."""
        query = select(Transcription).where(Transcription.id == lease.subject_id)
        row = await unit.session.scalar(
            query.with_for_update().execution_options(populate_existing=True)
        )
        if row is None:
            raise LeaseLost
        await ledger.require_lease(unit.session, lease)
        return row

    async def _both_locked(self, unit: UnitOfWork, lease: Lease) -> tuple[Lecture, Transcription]:
        """Lock the lecture, then the transcription, and check the lease."""
        mine = select(Transcription.lecture_id).where(Transcription.id == lease.subject_id)
        query = select(Lecture).where(Lecture.id == mine.scalar_subquery()).with_for_update()
        lecture = await unit.session.scalar(query)
        if lecture is None:
            raise LeaseLost
        return lecture, await self._locked(unit, lease)

    async def _announce(self, unit: UnitOfWork, row: Transcription) -> None:
        await unit.session.flush()
        await wake(unit, row)
