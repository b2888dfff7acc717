"""Reading lectures: one, a user's, everyone's.  A merged lecture's id answers with the survivor."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, cast, column, exists, false, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased, contains_eager, with_expression

from app.auth.viewer import Viewer
from app.db.models import CollectionItem, Course, Lecture, LectureAlias, UserLecture
from app.domain import LectureSource, LectureStatus
from app.services.collections.read import held_in
from app.services.courses.read import visible_to
from app.services.kernel.access import require_admin
from app.services.kernel.file_grants import FileGrant, Reader
from app.services.kernel.keyset import Linked, NewestFirst, Page, read_page
from app.services.kernel.live import Feed, Versions
from app.services.topics.read import lectures_about

Query = TypeVar("Query", bound=Select[*tuple[Any, ...]])


def real_id(lecture_id: UUID) -> ColumnElement[UUID]:
    """Return the expression of the id that the lecture goes by now, itself where not merged."""
    alias = select(LectureAlias.lecture_id).where(LectureAlias.id == lecture_id)
    return func.coalesce(alias.scalar_subquery(), lecture_id)


def select_real(ids: Collection[UUID]) -> Select[UUID, Lecture]:
    """Select each of the lectures with the id that asks for it: its own, or one merged into it."""
    uuid = PG_UUID(as_uuid=True)
    given = func.unnest(cast(list(ids), ARRAY(uuid)))
    asked = given.table_valued(column("id", uuid), name="asked").render_derived()
    return (
        select(asked.c.id, Lecture)
        .outerjoin(LectureAlias, LectureAlias.id == asked.c.id)
        .join(Lecture, Lecture.id == func.coalesce(LectureAlias.lecture_id, asked.c.id))
    )


def as_seen_by(viewer: Viewer, query: Query) -> Query:
    """Read each lecture's course too, where it is one that the viewer may see, and `is_held`."""
    joined = and_(Course.id == Lecture.course_id, visible_to(viewer))
    link = aliased(UserLecture)
    others = exists().where(link.lecture_id == Lecture.id, link.user_id != viewer.id)
    held = with_expression(Lecture.is_held, false() if viewer.is_admin else others)
    own = aliased(UserLecture)
    named = select(own.filename).where(own.lecture_id == Lecture.id, own.user_id == viewer.id)
    filename = with_expression(Lecture.filename, named.correlate(Lecture).scalar_subquery())
    return query.outerjoin(Course, joined).options(contains_eager(Lecture.course), held, filename)


def linked(viewer: Viewer) -> ColumnElement[bool]:
    """Return the condition that the viewer is linked to the lecture."""
    return exists().where(UserLecture.lecture_id == Lecture.id, UserLecture.user_id == viewer.id)


async def get_lecture(session: AsyncSession, viewer: Viewer, lecture_id: UUID) -> Lecture | None:
    """Return the lecture with its course, or None unless the viewer is linked to it or an admin."""
    return (await get_lectures(session, viewer, [lecture_id])).get(lecture_id)


async def get_lectures(
    session: AsyncSession, viewer: Viewer, ids: Collection[UUID]
) -> dict[UUID, Lecture]:
    """Return those of the lectures that the viewer is linked to, an admin all of them.

    Each with its course, as the database has it now, by the id that was asked for.
    """
    query = as_seen_by(viewer, select_real(ids))
    if not viewer.is_admin:
        query = query.where(linked(viewer))
    rows = await session.execute(query.execution_options(populate_existing=True))
    return {row[0]: row[1] for row in rows}


async def get_audio_grant(
    session: AsyncSession, reader: Reader, lecture_id: UUID, admin_ids: frozenset[UUID]
) -> FileGrant | None:
    """Return the right to hear the lecture, or None as `get_lecture` would, or without audio."""
    reader_id, is_admin = reader, False
    if isinstance(reader, Viewer):
        reader_id, is_admin = reader.id, reader.is_admin
    own = and_(UserLecture.lecture_id == Lecture.id, UserLecture.user_id == reader_id)
    query = select(Lecture, UserLecture.filename).outerjoin(UserLecture, own)
    query = query.where(Lecture.id == real_id(lecture_id))
    if not is_admin and reader_id not in admin_ids:
        query = query.where(UserLecture.user_id.is_not(None))
    row = (await session.execute(query)).one_or_none()
    if row is None:
        return None
    lecture, uploaded_as = row
    if lecture.audio_storage_key is None:
        return None
    name = lecture.title or PurePath(uploaded_as or "lecture").stem
    changed = lecture.completed_at or lecture.created_at
    return FileGrant(
        storage_key=lecture.audio_storage_key,
        filename=f"{name.replace('/', '-')}.m4a",  # Of a path only the end would be left.
        mime_type="audio/mp4",
        size_bytes=lecture.audio_bytes,
        etag_seed=f"{lecture.id} {changed.isoformat()} {lecture.audio_bytes}",
        modified_at=changed,
    )


@dataclass(frozen=True, slots=True)
class LectureFilter:
    """Which lectures of a list are wanted; None is all."""

    course_id: UUID | None = None
    statuses: Collection[LectureStatus] | None = None
    source: LectureSource | None = None
    platform: str | None = None
    topic_id: UUID | None = None
    collection_id: UUID | None = None

    def conditions(self, viewer: Viewer) -> list[ColumnElement[bool]]:
        """Return what the rows must be."""
        conditions: list[ColumnElement[bool]] = []
        if self.course_id is not None:
            conditions.append(Lecture.course_id == self.course_id)
        if self.statuses is not None:
            conditions.append(Lecture.status.in_(self.statuses))
        if self.source is not None:
            conditions.append(Lecture.source == self.source)
        if self.platform is not None:
            conditions.append(Lecture.platform == self.platform.lower())
        if self.topic_id is not None:
            conditions.append(Lecture.id.in_(lectures_about(viewer, self.topic_id)))
        if self.collection_id is not None:
            held = held_in(viewer, self.collection_id, CollectionItem.lecture_id)
            conditions.append(Lecture.id.in_(held))
        return conditions


async def list_lectures(
    session: AsyncSession,
    viewer: Viewer,
    wanted: LectureFilter,
    first: int | None,
    after: str | None,
) -> Page[Linked[Lecture]]:
    """Return a page of the viewer's lectures by when they were linked, newest first."""
    query = select(Lecture).join(UserLecture, UserLecture.lecture_id == Lecture.id)
    query = as_seen_by(viewer, query)
    query = query.where(UserLecture.user_id == viewer.id, *wanted.conditions(viewer))
    order = NewestFirst(UserLecture.created_at, UserLecture.lecture_id)
    return await read_page(session, query, order, lambda row: Linked(row[0], row[1]), first, after)


async def count_lectures(session: AsyncSession, viewer: Viewer, wanted: LectureFilter) -> int:
    """Count the viewer's whole list."""
    query = select(func.count()).select_from(UserLecture).where(UserLecture.user_id == viewer.id)
    if conditions := wanted.conditions(viewer):
        query = query.join(Lecture).where(*conditions)
    return await session.scalar(query) or 0


async def count_by_status(session: AsyncSession, viewer: Viewer) -> Mapping[LectureStatus, int]:
    """Count the viewer's lectures by where they stand; what has none is left out."""
    query = select(Lecture.status, func.count()).join(UserLecture)
    query = query.where(UserLecture.user_id == viewer.id).group_by(Lecture.status)
    return {row[0]: row[1] for row in await session.execute(query)}


async def list_all_lectures(
    session: AsyncSession,
    viewer: Viewer,
    status: LectureStatus | None,
    first: int | None,
    after: str | None,
) -> Page[Linked[Lecture]]:
    """Return a page of every user's lectures, newest first; admins only."""
    require_admin(viewer)
    query = as_seen_by(viewer, select(Lecture).where(*_of_status(status)))
    order = NewestFirst(Lecture.created_at, Lecture.id)
    return await read_page(session, query, order, lambda row: Linked(row[0], None), first, after)


async def count_all_lectures(session: AsyncSession, status: LectureStatus | None) -> int:
    """Count every user's lectures."""
    query = select(func.count()).select_from(Lecture).where(*_of_status(status))
    return await session.scalar(query) or 0


def _of_status(status: LectureStatus | None) -> list[ColumnElement[bool]]:
    return [] if status is None else [Lecture.status == status]


async def _versions(
    session: AsyncSession, viewer: Viewer, ids: Collection[UUID] | None
) -> Versions:
    query = (
        select(Lecture.id, Lecture.revision)
        .join(UserLecture, UserLecture.lecture_id == Lecture.id)
        .where(UserLecture.user_id == viewer.id)
    )
    if ids is not None:
        query = query.where(Lecture.id.in_(ids))
    return {row.id: row.revision for row in await session.execute(query)}


def _version(lecture: Lecture) -> object:
    return lecture.revision


LECTURES = Feed("lecture", _versions, get_lectures, _version)
"""What `live.follow` tells of lectures."""
