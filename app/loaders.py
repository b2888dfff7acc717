"""What many fields of one answer ask for, read in one statement for all of them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from strawberry.dataloader import DataLoader

from app.auth.viewer import Viewer
from app.db.models import Lecture, Transcription, TranscriptionChunk
from app.services.lectures.read import get_lectures
from app.services.transcripts.read import chunks_of, of_lectures

OpenSession = Callable[[], AbstractAsyncContextManager[AsyncSession]]


class Loaders:
    """The loaders of one operation.  Nothing is kept: a subscription asks anew at each event."""

    def __init__(self, session: OpenSession, viewer: Viewer) -> None:
        self._session = session
        self._viewer = viewer
        self.lectures: DataLoader[UUID, Lecture | None] = DataLoader(self._lectures, cache=False)
        self.transcriptions: DataLoader[UUID, Sequence[Transcription]] = DataLoader(
            self._transcriptions, cache=False
        )

        self.chunks: DataLoader[UUID, Sequence[TranscriptionChunk]] = DataLoader(
            self._chunks, cache=False
        )

    async def _chunks(self, transcription_ids: list[UUID]) -> list[Sequence[TranscriptionChunk]]:
        async with self._session() as session:
            found = await chunks_of(session, set(transcription_ids))
        return [found[id_] for id_ in transcription_ids]

    async def _lectures(self, ids: list[UUID]) -> list[Lecture | None]:
        async with self._session() as session:
            found = await get_lectures(session, self._viewer, set(ids))
        return [found.get(id_) for id_ in ids]

    async def _transcriptions(self, lecture_ids: list[UUID]) -> list[Sequence[Transcription]]:
        async with self._session() as session:
            found = await of_lectures(session, self._viewer, set(lecture_ids))
        return [found[id_] for id_ in lecture_ids]
