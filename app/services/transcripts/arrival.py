"""What becomes of a lecture's words as its audio arrives: captions are kept, or a job is opened."""

from uuid import UUID, uuid4

from sqlalchemy import func

from app.db.models import Lecture, Transcription
from app.domain import TranscriptionSource, TranscriptionStatus
from app.services.kernel.jobs import open_index_job
from app.services.kernel.unit_of_work import UnitOfWork
from app.services.transcripts.payload import settle_current, store
from app.services.transcripts.request import add, enqueue, wake
from app.speech.transcriber import SpeechModel
from app.storage.protocol import ObjectStore
from app.transcript.model import Transcript


class Arrival:
    """Keeps captions, or queues what has none for the ``model``, where there is one."""

    def __init__(self, storage: ObjectStore, model: SpeechModel | None) -> None:
        self._storage = storage
        self._model = model

    async def prepare(self, captions: Transcript | None) -> tuple[UUID, str] | None:
        """Put the captions' payload into its place: the object first, the row second."""
        if captions is None:
            return None
        id_ = uuid4()
        return id_, await store(self._storage, id_, captions)

    async def settle(
        self,
        unit: UnitOfWork,
        lecture: Lecture,
        captions: Transcript | None,
        prepared: tuple[UUID, str] | None,
    ) -> None:
        """Add the rows of a locked lecture that is COMPLETED in this transaction."""
        if captions is not None and prepared is not None:
            id_, key = prepared
            row = Transcription(
                id=id_,
                lecture_id=lecture.id,
                source=TranscriptionSource.CAPTIONS,
                language=captions.language,
                status=TranscriptionStatus.COMPLETED,
                duration_seconds=captions.duration_seconds,
                storage_key=key,
                text_length=len(captions.text),
                completed_at=func.now(),
            )
            unit.session.add(row)
            await settle_current(unit, self._storage, lecture)
            await open_index_job(unit, id_, None)
            await wake(unit, row)
        elif self._model is not None:
            row = add(unit.session, lecture.id, None, self._model, None)
            await unit.session.flush()
            await enqueue(unit, row, None)
            await wake(unit, row)
