"""Which transcriptions are about which topics, by the viewer's own word."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.viewer import Viewer
from app.db.models import Topic, Transcription, TranscriptionTopic
from app.domain import FieldErrorCode, TopicReview
from app.errors import FieldProblem, InvalidInput, NotFound
from app.services.kernel.unit_of_work import Work
from app.services.topics.read import assignments_of
from app.services.transcripts.read import get_transcription

TOPICS_AT_ONCE = 50


async def assign_topics(
    work: Work, viewer: Viewer, transcription_id: UUID, topic_ids: Sequence[UUID]
) -> Transcription:
    """Assign 1 to `TOPICS_AT_ONCE` of the viewer's topics, in place of what a model has said.

    `NotFound` where the viewer has no such transcription, or not all of the topics.
    """
    _require_some(topic_ids)
    async with work.begin() as unit:
        transcription = await _kept(unit.session, viewer, transcription_id)
        own = select(Topic.id).where(Topic.id.in_(topic_ids), Topic.user_id == viewer.id)
        own = own.order_by(Topic.id).with_for_update(read=True, key_share=True)
        found = (await unit.session.scalars(own)).all()
        if missing := set(topic_ids).difference(found):
            raise NotFound("topic", min(missing, key=topic_ids.index))
        said = {
            "assigned_by": viewer.id,
            "ai_confidence": None,
            "ai_reasoning": None,
            "review": TopicReview.ACCEPTED,
        }
        rows = [{"transcription_id": transcription_id, "topic_id": id_, **said} for id_ in found]
        made = insert(TranscriptionTopic).values(rows)
        key = ["transcription_id", "topic_id"]
        await unit.session.execute(made.on_conflict_do_update(index_elements=key, set_=said))
        return transcription


async def unassign_topic(
    work: Work, viewer: Viewer, transcription_id: UUID, topic_id: UUID
) -> Transcription:
    """Forget what was said of the transcription and the viewer's topic, whoever said it.

    `NotFound` where the viewer has no such transcription, or the topic is not assigned to it.
    """
    async with work.begin() as unit:
        transcription = await _kept(unit.session, viewer, transcription_id)
        own = select(Topic.id).where(Topic.id == topic_id, Topic.user_id == viewer.id)
        gone = delete(TranscriptionTopic).where(
            TranscriptionTopic.transcription_id == transcription_id,
            TranscriptionTopic.topic_id.in_(own),
        )
        if await unit.session.scalar(gone.returning(TranscriptionTopic.topic_id)) is None:
            raise NotFound("topic", topic_id)
        return transcription


async def review_topic(
    work: Work, viewer: Viewer, transcription_id: UUID, topic_id: UUID, *, accept: bool
) -> tuple[Transcription, TranscriptionTopic]:
    """Accept or reject what was said, which is remembered; return both as they stand now.

    `NotFound` where the viewer has no such transcription, or the topic is not assigned to it.
    """
    review = TopicReview.ACCEPTED if accept else TopicReview.REJECTED
    async with work.begin() as unit:
        transcription = await _kept(unit.session, viewer, transcription_id)
        own = select(Topic.id).where(Topic.id == topic_id, Topic.user_id == viewer.id)
        reviewed = update(TranscriptionTopic).where(
            TranscriptionTopic.transcription_id == transcription_id,
            TranscriptionTopic.topic_id.in_(own),
        )
        await unit.session.execute(reviewed.values(review=review))
        found = await assignments_of(unit.session, viewer, [transcription_id])
        for assignment in found[transcription_id]:
            if assignment.topic_id == topic_id:
                return transcription, assignment
        raise NotFound("topic", topic_id)


async def _kept(session: AsyncSession, viewer: Viewer, transcription_id: UUID) -> Transcription:
    """Return the transcription that the viewer may see, kept from being deleted."""
    transcription = await get_transcription(session, viewer, transcription_id)
    lock = select(Transcription.id).where(Transcription.id == transcription_id)
    lock = lock.with_for_update(read=True, key_share=True)
    if transcription is None or await session.scalar(lock) is None:
        raise NotFound("transcription", transcription_id)
    return transcription


def _require_some(topic_ids: Sequence[UUID]) -> None:
    if not topic_ids:
        problem = FieldProblem(("topicIds",), "Name one at least.", FieldErrorCode.REQUIRED)
        raise InvalidInput(problem)
    if len(topic_ids) > TOPICS_AT_ONCE:
        message = f"Name {TOPICS_AT_ONCE} at most."
        raise InvalidInput(FieldProblem(("topicIds",), message, FieldErrorCode.TOO_MANY))
