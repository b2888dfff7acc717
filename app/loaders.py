"""What many fields of one answer ask for, read in one statement for all of them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from strawberry.dataloader import DataLoader

from app.auth.viewer import Viewer
from app.db.models import (
    CollectionItem,
    Lecture,
    Transcription,
    TranscriptionChunk,
    TranscriptionTopic,
)
from app.services.collections.read import count_items, items_of
from app.services.documents.read import OwnDocument, get_documents
from app.services.lectures.read import get_lectures
from app.services.topics.read import assignments_of, count_lectures_of
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
        self.documents: DataLoader[UUID, OwnDocument | None] = DataLoader(
            self._documents, cache=False
        )
        self.collection_items: DataLoader[tuple[UUID, int, int], Sequence[CollectionItem]] = (
            DataLoader(self._collection_items, cache=False)
        )
        self.collection_counts: DataLoader[UUID, int] = DataLoader(
            self._collection_counts, cache=False
        )
        self.topic_assignments: DataLoader[UUID, Sequence[TranscriptionTopic]] = DataLoader(
            self._topic_assignments, cache=False
        )
        self.topic_lectures: DataLoader[UUID, int] = DataLoader(self._topic_lectures, cache=False)

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

    async def _documents(self, ids: list[UUID]) -> list[OwnDocument | None]:
        async with self._session() as session:
            found = await get_documents(session, self._viewer, set(ids))
        return [found.get(id_) for id_ in ids]

    async def _collection_items(
        self, pages: list[tuple[UUID, int, int]]
    ) -> list[Sequence[CollectionItem]]:
        """Read for each collection what begins at a position, and one more than a page has."""
        async with self._session() as session:
            found = await items_of(session, pages)
        return [found[page] for page in pages]

    async def _collection_counts(self, ids: list[UUID]) -> list[int]:
        async with self._session() as session:
            found = await count_items(session, set(ids))
        return [found.get(id_, 0) for id_ in ids]

    async def _topic_assignments(
        self, transcription_ids: list[UUID]
    ) -> list[Sequence[TranscriptionTopic]]:
        async with self._session() as session:
            found = await assignments_of(session, self._viewer, set(transcription_ids))
        return [found[id_] for id_ in transcription_ids]

    async def _topic_lectures(self, topic_ids: list[UUID]) -> list[int]:
        async with self._session() as session:
            found = await count_lectures_of(session, self._viewer, set(topic_ids))
        return [found.get(id_, 0) for id_ in topic_ids]
