"""`studybuddy reindex`: what another embedder, or none, has left is indexed anew."""

from sqlalchemy import select, update

from app.db.models import Document, Job, Transcription, TranscriptionChunk
from app.domain import JobState, SearchMode
from app.services.search.reindex import Reindexing, reindex
from app.settings import Settings
from tests.support.library import open_library


async def test_what_another_embedder_left_is_indexed_anew(settings: Settings) -> None:
    async with open_library(settings) as library:
        viewer, sessions = await library.viewer(), library.backends.sessions
        model = library.embedder.model if library.embedder else ""
        await library.lecture("Sugar is sweet.", viewer)
        await library.document(["Salt is salty."], viewer)
        await library.index()
        assert [state async for state in reindex(sessions, model)] == [Reindexing(0, 0)]

        async with sessions.begin() as session:
            await session.execute(update(Transcription).values(embedder="another"))
            await session.execute(update(Document).values(indexed_at=None))
        for _ in range(2):  # Begun twice, it queues once.
            states = reindex(sessions, model)
            assert await anext(states) == Reindexing(2, 2)
            assert (await library.search(viewer, "sugar", SearchMode.KEYWORD)).rows
        await library.index()
        assert await anext(states, None) == Reindexing(0, 0)
        assert (await library.search(viewer, "sugar", SearchMode.SEMANTIC)).rows


async def test_what_fails_is_left_over(settings: Settings) -> None:
    async with open_library(settings) as library:
        sessions = library.backends.sessions
        await library.lecture("Sugar is sweet.")
        async with sessions.begin() as session:
            await session.execute(update(Transcription).values(storage_key="transcripts/gone.json"))
            await session.execute(update(Job).values(attempt=99))
        assert await library.index() == [JobState.FAILED]
        async with sessions.begin() as session:
            assert not (await session.scalars(select(TranscriptionChunk))).all()
            assert (await session.scalars(select(Job.last_error))).one()
            await session.execute(update(Job).values(attempt=0))
        states = reindex(sessions, None)
        assert await anext(states) == Reindexing(1, 1)
        assert await library.index() == ["retried"]
