"""Which transcriptions are about which topics, as far as a model can tell.

What a user has said is never changed: neither what they have assigned, nor what they have accepted
or rejected.  A suggestion that does not hold any more goes.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import and_, delete, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.viewer import Viewer
from app.db import ledger
from app.db.ledger import Lease
from app.db.models import Topic, Transcription, TranscriptionTopic
from app.db.vectors import extensions
from app.domain import TopicReview
from app.embedder.embedder import Embedder, EmbedderFailed
from app.errors import Conflict, NotFound
from app.services.kernel.unit_of_work import Work
from app.services.topics.judgement import judge, question, reasoning, standing_out
from app.services.transcripts.read import get_transcription

if TYPE_CHECKING:
    from app.embedder.embedder import Vectors

_CHUNKS = text(
    """
    SELECT chunks.text, chunks.start_time, CAST(vectors.embedding AS real[]) AS embedding
    FROM transcription_vectors vectors
    JOIN transcription_chunks chunks USING (transcription_id, chunk_index)
    WHERE transcription_id = :id ORDER BY chunk_index
    """
)


@dataclass(frozen=True, slots=True)
class OwnTopics:
    """All topics of a user as they were read: their ids, when each had changed, their vectors."""

    ids: Sequence[UUID]
    changed_at: Sequence[datetime]
    vectors: "Vectors"


class Suggestions:
    """Judges transcripts by an embedder; a topic is suggested from ``threshold`` (0 to 1) on."""

    def __init__(self, work: Work, embedder: Embedder, threshold: float) -> None:
        self._work = work
        self._embedder = embedder
        self._threshold = threshold

    async def read_topics(self, user_id: UUID) -> OwnTopics:
        """Return the user's topics; vectors that are missing, or another model's, are made."""
        import numpy as np

        async with self._work.sessions() as session:
            query = select(Topic).where(Topic.user_id == user_id).order_by(Topic.id)
            topics = (await session.scalars(query)).all()
        stale = [each for each in topics if each.embedding_model != self._embedder.model]
        if stale:
            made = await self._embedder.embed(
                [question(each.name, each.description) for each in stale]
            )
            async with self._work.begin() as unit:
                for topic, vector in zip(stale, made, strict=True):
                    topic.embedding = vector.tolist()
                    kept = {
                        "embedding": topic.embedding,
                        "embedding_model": self._embedder.model,
                    }
                    unchanged = Topic.id == topic.id, Topic.updated_at == topic.updated_at
                    await unit.session.execute(update(Topic).where(*unchanged).values(kept))
        return OwnTopics(
            [each.id for each in topics],
            [each.updated_at for each in topics],
            np.array([each.embedding for each in topics], np.float32),
        )

    async def judge(
        self, topics: OwnTopics, transcription_id: UUID, lease: Lease | None = None
    ) -> None:
        """Write down which of the topics the transcription is about.

        One without vectors of this model is left alone.  A topic that has changed since it was read
        is left to the job that the change has opened.
        """
        if not topics.ids:
            return
        async with self._work.sessions() as session:
            if not await self.is_ready(session, transcription_id):
                return
            chunks = (await session.execute(_CHUNKS, {"id": transcription_id})).all()
        suggested: dict[UUID, tuple[float, str]] = {}
        if chunks:
            vectors = [chunk.embedding for chunk in chunks]
            confidences, best = await asyncio.to_thread(self._judged, topics.vectors, vectors)
            for number in standing_out(confidences, self._threshold):
                chunk = chunks[best[number]]
                why = reasoning(chunk.text, chunk.start_time)
                suggested[topics.ids[number]] = confidences[number], why
        async with self._work.begin() as unit:
            if lease is not None:
                await ledger.require_lease(unit.session, lease)
            await _write(unit.session, topics, transcription_id, suggested)

    async def is_ready(self, session: AsyncSession, transcription_id: UUID) -> bool:
        """Whether the transcription is indexed with vectors of this model."""
        if not (await extensions(session)).vectors:
            return False
        query = select(Transcription.embedder).where(Transcription.id == transcription_id)
        return await session.scalar(query) == self._embedder.model

    def _judged(
        self, topics: "Vectors", chunks: Sequence[Sequence[float]]
    ) -> tuple[list[float], list[int]]:
        import numpy as np

        return judge(topics, np.array(chunks, np.float32), self._embedder.least_similarity)


async def suggest_topics(
    work: Work,
    embedder: Embedder | None,
    threshold: float,
    viewer: Viewer,
    transcription_id: UUID,
) -> Transcription:
    """Judge the viewer's topics against the transcription now.

    `NotFound` where the viewer has no such transcription, `Conflict` where it has no index (yet).
    """
    suggestions = None if embedder is None else Suggestions(work, embedder, threshold)
    async with work.sessions() as session:
        transcription = await get_transcription(session, viewer, transcription_id)
        if transcription is None:
            raise NotFound("transcription", transcription_id)
        if suggestions is None or not await suggestions.is_ready(session, transcription_id):
            raise Conflict("The transcription is not indexed by its meaning.")
    try:
        topics = await suggestions.read_topics(viewer.id)
    except EmbedderFailed:
        raise Conflict("The service's model of meaning cannot be used.") from None
    await suggestions.judge(topics, transcription_id)
    return transcription


async def _write(
    session: AsyncSession,
    topics: OwnTopics,
    transcription_id: UUID,
    suggested: dict[UUID, tuple[float, str]],
) -> None:
    there = select(Transcription.id).where(Transcription.id == transcription_id)
    if await session.scalar(there.with_for_update(read=True, key_share=True)) is None:
        return
    query = select(Topic.id, Topic.updated_at).where(Topic.id.in_(topics.ids)).order_by(Topic.id)
    found = await session.execute(query.with_for_update(read=True))
    now = {(id_, changed_at) for id_, changed_at in found}
    judged = {id_ for id_, _ in now.intersection(zip(topics.ids, topics.changed_at, strict=True))}
    is_open = and_(
        TranscriptionTopic.assigned_by.is_(None),
        TranscriptionTopic.review == TopicReview.UNREVIEWED,
    )
    gone = delete(TranscriptionTopic).where(
        TranscriptionTopic.transcription_id == transcription_id,
        TranscriptionTopic.topic_id.in_(judged.difference(suggested)),
        is_open,
    )
    await session.execute(gone)
    rows = [
        {
            "transcription_id": transcription_id,
            "topic_id": id_,
            "ai_confidence": confidence,
            "ai_reasoning": why,
        }
        for id_, (confidence, why) in sorted(suggested.items())
        if id_ in judged
    ]
    if rows:
        made = insert(TranscriptionTopic).values(rows)
        renewed = made.on_conflict_do_update(
            index_elements=["transcription_id", "topic_id"],
            set_={name: made.excluded[name] for name in ("ai_confidence", "ai_reasoning")},
            where=is_open,
        )
        await session.execute(renewed)
