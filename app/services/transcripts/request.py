"""Asking for a transcription: request, cancel, delete.

Each is one transaction that takes the lecture's row lock first, as everything does that changes a
lecture or what hangs on it.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Select, exists, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.viewer import Viewer
from app.db import ledger
from app.db.models import Lecture, Transcription, UserLecture
from app.domain import (
    FieldErrorCode,
    JobKind,
    TranscriptionFailure,
    TranscriptionSource,
    TranscriptionStatus,
)
from app.errors import Conflict, InvalidInput, NotFound
from app.services.kernel.objects import delete_objects
from app.services.kernel.quotas import Allowance, Quota
from app.services.kernel.unit_of_work import UnitOfWork, Work
from app.services.kernel.users import ensure_user
from app.services.lectures.request import lock_lecture
from app.services.transcripts import states
from app.services.transcripts.payload import settle_current
from app.services.transcripts.read import get_transcription
from app.speech.languages import primary_tag
from app.speech.transcriber import SpeechModel, Transcriber
from app.storage.protocol import ObjectStore


@dataclass(frozen=True, slots=True)
class TranscriptionRequest:
    """What is to be transcribed; the default model and the language that is heard, unless named."""

    lecture_id: UUID
    model: str | None = None
    language: str | None = None


@dataclass(frozen=True, slots=True)
class RequestedTranscription:
    """The transcription that there is now; ``created`` where this request made it."""

    transcription: Transcription
    created: bool


async def request_transcription(
    work: Work,
    transcriber: Transcriber,
    viewer: Viewer,
    request: TranscriptionRequest,
    allowance: Allowance,
) -> RequestedTranscription:
    """Queue the transcription where the lecture has none of that model and language.

    A FAILED one is queued again.  `Conflict` where there is no audio, unless the work is done.
    """
    model = _checked_model(transcriber, request.model)
    language = _checked_language(transcriber, model, request.language)
    async with work.begin() as unit:
        lecture = await lock_lecture(unit.session, viewer, request.lecture_id)
        row = await unit.session.scalar(_of(lecture.id, model.name, language))
        is_heard = row is not None and row.status is not TranscriptionStatus.FAILED
        if not is_heard and lecture.audio_storage_key is None:
            raise Conflict("The lecture has no audio to transcribe.")
        await allowance.spend(Quota.TRANSCRIPTIONS)
        await ensure_user(unit.session, viewer)
        created = row is None
        if row is None:
            row = add(unit.session, lecture.id, viewer.id, model, language)
            await unit.session.flush()
        elif row.status is TranscriptionStatus.FAILED:
            states.queue_again(row)
            row.requested_by = viewer.id
        if row.status is TranscriptionStatus.PENDING:
            await enqueue(unit, row, viewer.id)
        return RequestedTranscription(await _changed(unit, viewer, row), created)


async def cancel_transcription(work: Work, viewer: Viewer, transcription_id: UUID) -> Transcription:
    """Stop a PENDING or PROCESSING one: FAILED with CANCELLED; its worker is rung."""
    async with work.begin() as unit:
        _, row = await _locked(unit.session, viewer, transcription_id)
        if row.status not in states.RUNNING:
            message = "Only a transcription that waits or is being worked on can be cancelled."
            raise Conflict(message)
        await _require_own(unit.session, viewer, row)
        await stop_jobs(unit, [row.id])
        message = "The transcription was cancelled."
        states.fail(row, TranscriptionFailure.CANCELLED, message)
        return await _changed(unit, viewer, row)


async def delete_transcription(
    work: Work, storage: ObjectStore, viewer: Viewer, transcription_id: UUID
) -> UUID:
    """Delete the transcription and its text; the next best becomes the current one.

    `Conflict` where someone else asked for it, admins excepted.
    """
    async with work.begin() as unit:
        lecture, row = await _locked(unit.session, viewer, transcription_id)
        await _require_own(unit.session, viewer, row)
        await stop_jobs(unit, [row.id])
        await wake(unit, row)
        keys = [row.storage_key] if row.storage_key else []
        await unit.session.delete(row)
        if keys:
            keys += await settle_current(unit, storage, lecture)
            await unit.wake_lecture(lecture.id)
    await delete_objects(storage, keys)
    return transcription_id


def add(
    session: AsyncSession,
    lecture_id: UUID,
    user_id: UUID | None,
    model: SpeechModel,
    language: str | None,
) -> Transcription:
    """Add the row of a lecture that is to be heard by the model."""
    row = Transcription(
        lecture_id=lecture_id,
        requested_by=user_id,
        source=TranscriptionSource.SPEECH_RECOGNITION,
        model_name=model.name,
        model_version=model.version,
        forced_language=language,
        is_language_forced=language is not None,
        language=language,
        status=TranscriptionStatus.PENDING,
    )
    session.add(row)
    return row


async def enqueue(unit: UnitOfWork, row: Transcription, user_id: UUID | None) -> None:
    """Open the job in this transaction, and ring after it.

    One that is open already need not wait behind all that is transcribed for nobody.
    """
    if await ledger.open_job(unit.session, JobKind.TRANSCRIBE, row.id, user_id):
        unit.ring()
    elif user_id is not None:
        await ledger.move_up(unit.session, JobKind.TRANSCRIBE, row.id, user_id)


async def stop_jobs(unit: UnitOfWork, transcription_ids: list[UUID]) -> None:
    """Close the open jobs and ring their holders."""
    for job_id in await ledger.close_jobs(unit.session, JobKind.TRANSCRIBE, transcription_ids):
        unit.wake("job", job_id)


async def wake(unit: UnitOfWork, row: Transcription) -> None:
    """Wake whoever watches the transcription and whoever is linked to its lecture."""
    linked = select(UserLecture.user_id).where(UserLecture.lecture_id == row.lecture_id)
    unit.wake("transcription", row.id, *(await unit.session.scalars(linked)))


async def _locked(
    session: AsyncSession, viewer: Viewer, transcription_id: UUID
) -> tuple[Lecture, Transcription]:
    """Return lecture and transcription, both locked; `NotFound` unless the viewer may see them."""
    found = await get_transcription(session, viewer, transcription_id)
    if found is None:
        raise NotFound("transcription", transcription_id)
    lecture = await lock_lecture(session, viewer, found.lecture_id)
    query = select(Transcription).where(Transcription.id == transcription_id).with_for_update()
    row = await session.scalar(query.execution_options(populate_existing=True))
    if row is None:
        raise NotFound("transcription", transcription_id)
    return lecture, row


async def _changed(unit: UnitOfWork, viewer: Viewer, row: Transcription) -> Transcription:
    """Announce the change, and return the row as this transaction leaves it."""
    await unit.session.flush()
    await wake(unit, row)
    read = await get_transcription(unit.session, viewer, row.id)
    if read is None:
        raise NotFound("transcription", row.id)
    return read


async def _require_own(session: AsyncSession, viewer: Viewer, row: Transcription) -> None:
    """Raise `Conflict` where it is another's, or nobody's while others have the lecture too."""
    if viewer.is_admin or row.requested_by == viewer.id:
        return
    others = exists().where(
        UserLecture.lecture_id == row.lecture_id, UserLecture.user_id != viewer.id
    )
    if row.requested_by is not None or await session.scalar(select(others)):
        raise Conflict("Someone else uses this transcription too.")


def _of(lecture_id: UUID, model: str, language: str | None) -> Select[Transcription]:
    return select(Transcription).where(
        Transcription.lecture_id == lecture_id,
        Transcription.source == TranscriptionSource.SPEECH_RECOGNITION,
        Transcription.model_name == model,
        Transcription.forced_language.is_not_distinct_from(language),
    )


def _checked_model(transcriber: Transcriber, name: str | None) -> SpeechModel:
    models = {each.name: each for each in transcriber.models}
    if not models:
        message = "This service has no model that transcribes."
        raise InvalidInput.at("model", message, FieldErrorCode.UNSUPPORTED)
    if name is None:
        return next(iter(models.values()))
    if name not in models:
        message = f"There is no such model; there are: {', '.join(models)}."
        raise InvalidInput.at("model", message, FieldErrorCode.UNSUPPORTED)
    return models[name]


def _checked_language(
    transcriber: Transcriber, model: SpeechModel, language: str | None
) -> str | None:
    """Return the language's own tag, whatever the region; None where it is to be detected."""
    if language is None:
        return None
    if not transcriber.supports(model.name, language):
        message = f"The model {model.name} cannot be told to hear this language."
        raise InvalidInput.at("language", message, FieldErrorCode.UNSUPPORTED)
    return primary_tag(language)
