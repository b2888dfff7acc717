"""Reading topics and what is assigned to them: whose they are reads them, and nobody else."""

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import contains_eager

from app.auth.viewer import Viewer
from app.db.models import Topic, Transcription, TranscriptionTopic, UserLecture
from app.domain import TopicReview
from app.services.kernel.keyset import ByCode, Page, read_page
from app.services.kernel.word_search import has_words


def about(viewer: Viewer, topic_id: UUID) -> Select[UUID]:
    """Select the transcriptions that are about the viewer's topic, REJECTED ones left out."""
    query = select(TranscriptionTopic.transcription_id).join(TranscriptionTopic.topic)
    return query.where(Topic.id == topic_id, Topic.user_id == viewer.id, _stands())


def lectures_about(viewer: Viewer, topic_id: UUID) -> Select[UUID]:
    """Select the lectures that have such a transcription."""
    return select(Transcription.lecture_id).where(Transcription.id.in_(about(viewer, topic_id)))


def _stands() -> ColumnElement[bool]:
    return TranscriptionTopic.review != TopicReview.REJECTED


async def get_topic(session: AsyncSession, viewer: Viewer, topic_id: UUID) -> Topic | None:
    """Return the topic, or None unless it is the viewer's."""
    return (await get_topics(session, viewer, [topic_id])).get(topic_id)


async def get_topics(
    session: AsyncSession, viewer: Viewer, ids: Collection[UUID]
) -> dict[UUID, Topic]:
    """Return those of the topics that are the viewer's, by id."""
    query = select(Topic).where(Topic.id.in_(ids), Topic.user_id == viewer.id)
    return {row.id: row for row in await session.scalars(query)}


async def list_topics(
    session: AsyncSession, viewer: Viewer, search: str | None, first: int | None, after: str | None
) -> Page[Topic]:
    """Return a page of the viewer's topics by name; ``search`` looks into name and description."""
    query = select(Topic).where(_matching(viewer, search))
    order = ByCode(Topic.folded_name, Topic.id)
    return await read_page(session, query, order, lambda row: row[0], first, after)


async def count_topics(session: AsyncSession, viewer: Viewer, search: str | None = None) -> int:
    """Count the whole list."""
    query = select(func.count()).select_from(Topic).where(_matching(viewer, search))
    return await session.scalar(query) or 0


def _matching(viewer: Viewer, search: str | None) -> ColumnElement[bool]:
    return and_(Topic.user_id == viewer.id, has_words(search, (Topic.name, Topic.description)))


async def count_lectures_of(
    session: AsyncSession, viewer: Viewer, topic_ids: Collection[UUID]
) -> Mapping[UUID, int]:
    """Count for each of the viewer's topics the lectures that `lectures(topicId:)` has."""
    topic = TranscriptionTopic.topic_id
    lectures = func.count(Transcription.lecture_id.distinct())
    query = (
        select(topic, lectures)
        .join(Transcription, Transcription.id == TranscriptionTopic.transcription_id)
        .join(UserLecture, UserLecture.lecture_id == Transcription.lecture_id)
        .join(Topic, and_(Topic.id == topic, Topic.user_id == UserLecture.user_id))
        .where(topic.in_(topic_ids), UserLecture.user_id == viewer.id, _stands())
    )
    return {row[0]: row[1] for row in await session.execute(query.group_by(topic))}


async def assignments_of(
    session: AsyncSession, viewer: Viewer, transcription_ids: Collection[UUID]
) -> Mapping[UUID, Sequence[TranscriptionTopic]]:
    """Return what the viewer's topics say of the transcriptions, each with its topic, by name.

    REJECTED ones are among them.
    """
    query = (
        select(TranscriptionTopic)
        .join(TranscriptionTopic.topic)
        .options(contains_eager(TranscriptionTopic.topic))
        .where(
            TranscriptionTopic.transcription_id.in_(transcription_ids),
            Topic.user_id == viewer.id,
        )
        .order_by(Topic.folded_name)
    )
    found: dict[UUID, list[TranscriptionTopic]] = {id_: [] for id_ in transcription_ids}
    for row in await session.scalars(query.execution_options(populate_existing=True)):
        found[row.transcription_id].append(row)
    return found
