"""Reading transcriptions: whoever is linked to a lecture reads its words, and so do admins."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute, aliased, with_expression

from app.auth.viewer import Viewer
from app.db.models import (
    CollectionItem,
    Lecture,
    Transcription,
    TranscriptionChunk,
    UserLecture,
)
from app.domain import TranscriptionSource, TranscriptionStatus
from app.services.collections.read import held_in
from app.services.kernel.keyset import NewestFirst, Page, read_page
from app.services.kernel.live import Feed, Versions
from app.services.lectures.read import linked, real_id
from app.services.topics.read import about


def best_of(lecture_id: InstrumentedAttribute[UUID] | UUID) -> Select[UUID]:
    """Select the id of the lecture's current transcription.

    That is the newest COMPLETED one of speech recognition, else the captions.
    """
    other = aliased(Transcription)
    return (
        select(other.id)
        .where(other.lecture_id == lecture_id, other.status == TranscriptionStatus.COMPLETED)
        .order_by(
            (other.source == TranscriptionSource.SPEECH_RECOGNITION).desc(),
            other.completed_at.desc(),
            other.id,
        )
        .limit(1)
    )


def _transcriptions(viewer: Viewer) -> Select[Transcription]:
    """Select those that the viewer may see, each with whether it is the current one."""
    best = best_of(Transcription.lecture_id).correlate(Transcription).scalar_subquery()
    is_current = with_expression(Transcription.is_current, Transcription.id == best)
    query = select(Transcription).options(is_current)
    if not viewer.is_admin:
        query = query.join(Lecture, Lecture.id == Transcription.lecture_id).where(linked(viewer))
    return query.execution_options(populate_existing=True)


async def get_transcription(
    session: AsyncSession, viewer: Viewer, transcription_id: UUID
) -> Transcription | None:
    """Return it, or None unless the viewer is linked to its lecture or an admin."""
    return (await get_transcriptions(session, viewer, [transcription_id])).get(transcription_id)


async def get_transcriptions(
    session: AsyncSession, viewer: Viewer, ids: Collection[UUID]
) -> dict[UUID, Transcription]:
    """Return those that the viewer may see, by their ids."""
    rows = await session.scalars(_transcriptions(viewer).where(Transcription.id.in_(ids)))
    return {row.id: row for row in rows}


async def of_lectures(
    session: AsyncSession, viewer: Viewer, lecture_ids: Collection[UUID]
) -> Mapping[UUID, Sequence[Transcription]]:
    """Return all transcriptions of the lectures that the viewer may see, newest first."""
    query = _transcriptions(viewer).where(Transcription.lecture_id.in_(lecture_ids))
    query = query.order_by(Transcription.created_at.desc(), Transcription.id)
    found: dict[UUID, list[Transcription]] = {id_: [] for id_ in lecture_ids}
    for row in await session.scalars(query):
        found[row.lecture_id].append(row)
    return found


async def chunks_of(
    session: AsyncSession, ids: Collection[UUID]
) -> Mapping[UUID, Sequence[TranscriptionChunk]]:
    """Return the chunks of transcriptions that the viewer has been found to see, in order."""
    query = select(TranscriptionChunk).where(TranscriptionChunk.transcription_id.in_(ids))
    query = query.order_by(TranscriptionChunk.transcription_id, TranscriptionChunk.chunk_index)
    found: dict[UUID, list[TranscriptionChunk]] = {id_: [] for id_ in ids}
    for row in await session.scalars(query):
        found[row.transcription_id].append(row)
    return found


@dataclass(frozen=True, slots=True)
class TranscriptionFilter:
    """Which transcriptions of a list are wanted; None is all."""

    lecture_id: UUID | None = None
    status: TranscriptionStatus | None = None
    topic_id: UUID | None = None
    collection_id: UUID | None = None

    def conditions(self, viewer: Viewer) -> list[ColumnElement[bool]]:
        """Return what the rows must be: an admin's list has their own lectures alone too."""
        own = select(UserLecture.lecture_id).where(UserLecture.user_id == viewer.id)
        conditions: list[ColumnElement[bool]] = [Transcription.lecture_id.in_(own)]
        if self.lecture_id is not None:
            conditions.append(Transcription.lecture_id == real_id(self.lecture_id))
        if self.status is not None:
            conditions.append(Transcription.status == self.status)
        if self.topic_id is not None:
            conditions.append(Transcription.id.in_(about(viewer, self.topic_id)))
        if self.collection_id is not None:
            held = held_in(viewer, self.collection_id, CollectionItem.lecture_id)
            conditions.append(Transcription.lecture_id.in_(held))
        return conditions


async def list_transcriptions(
    session: AsyncSession,
    viewer: Viewer,
    wanted: TranscriptionFilter,
    first: int | None,
    after: str | None,
) -> Page[Transcription]:
    """Return a page of those of the viewer's lectures, newest first."""
    query = _transcriptions(viewer).where(*wanted.conditions(viewer))
    order = NewestFirst(Transcription.created_at, Transcription.id)
    return await read_page(session, query, order, lambda row: row[0], first, after)


async def count_transcriptions(
    session: AsyncSession, viewer: Viewer, wanted: TranscriptionFilter
) -> int:
    """Count the whole list."""
    query = select(func.count()).select_from(Transcription)
    return await session.scalar(query.where(*wanted.conditions(viewer))) or 0


async def _versions(
    session: AsyncSession, viewer: Viewer, ids: Collection[UUID] | None
) -> Versions:
    query = (
        select(Transcription.id, Transcription.revision)
        .join(UserLecture, UserLecture.lecture_id == Transcription.lecture_id)
        .where(UserLecture.user_id == viewer.id)
    )
    if ids is not None:
        query = query.where(Transcription.id.in_(ids))
    return {row.id: row.revision for row in await session.execute(query)}


def _version(row: Transcription) -> object:
    return row.revision


TRANSCRIPTIONS = Feed("transcription", _versions, get_transcriptions, _version)
"""What `live.follow` tells of transcriptions."""
