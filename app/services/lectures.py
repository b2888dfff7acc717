"""Reading lectures: one, a user's, everyone's.  A merged lecture's id answers with the survivor."""

from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import contains_eager

from app.auth.viewer import Viewer
from app.db.models import Course, Lecture, LectureAlias, UserLecture
from app.domain import LectureStatus
from app.errors import Forbidden
from app.services.courses import visible_to
from app.services.keyset import Page, TimeKey, beyond, decode_time, make_page, page_size

Query = TypeVar("Query", bound=Select[*tuple[Any, ...]])


def real_id(lecture_id: UUID) -> ColumnElement[UUID]:
    """Return the expression of the id that the lecture goes by now, itself where not merged."""
    alias = select(LectureAlias.lecture_id).where(LectureAlias.id == lecture_id)
    return func.coalesce(alias.scalar_subquery(), lecture_id)


def with_course(query: Query, viewer: Viewer) -> Query:
    """Join each lecture's course, where it is one that the viewer may see."""
    joined = and_(Course.id == Lecture.course_id, visible_to(viewer))
    return query.outerjoin(Course, joined).options(contains_eager(Lecture.course))


def linked(viewer: Viewer) -> ColumnElement[bool]:
    """Return the condition that the viewer is linked to the lecture."""
    return exists().where(UserLecture.lecture_id == Lecture.id, UserLecture.user_id == viewer.id)


async def get_lecture(session: AsyncSession, viewer: Viewer, lecture_id: UUID) -> Lecture | None:
    """Return the lecture with its course, or None unless the viewer is linked to it or an admin."""
    query = with_course(select(Lecture).where(Lecture.id == real_id(lecture_id)), viewer)
    if not viewer.is_admin:
        query = query.where(linked(viewer))
    return await session.scalar(query)


async def list_lectures(
    session: AsyncSession,
    viewer: Viewer,
    course_id: UUID | None,
    status: LectureStatus | None,
    first: int | None,
    after: str | None,
) -> Page[Lecture]:
    """Return a page of the viewer's lectures by when they were linked, newest first."""
    size, position = page_size(first), decode_time(after)
    query = select(Lecture, UserLecture.created_at).join(
        UserLecture, UserLecture.lecture_id == Lecture.id
    )
    query = with_course(query, viewer)
    query = query.where(UserLecture.user_id == viewer.id, *_filters(course_id, status))
    if position is not None:
        query = query.where(beyond(UserLecture.created_at, UserLecture.lecture_id, position))
    query = query.order_by(UserLecture.created_at.desc(), UserLecture.lecture_id)
    rows = (await session.execute(query.limit(size + 1))).all()
    keys = [TimeKey(linked_at, lecture.id) for lecture, linked_at in rows]
    return make_page([lecture for lecture, _ in rows], keys, size, after=after)


async def count_lectures(
    session: AsyncSession, viewer: Viewer, course_id: UUID | None, status: LectureStatus | None
) -> int:
    """Count the viewer's whole list."""
    query = select(func.count()).select_from(UserLecture).where(UserLecture.user_id == viewer.id)
    filters = _filters(course_id, status)
    if filters:
        query = query.join(Lecture).where(*filters)
    return await session.scalar(query) or 0


async def list_all_lectures(
    session: AsyncSession,
    viewer: Viewer,
    status: LectureStatus | None,
    first: int | None,
    after: str | None,
) -> Page[Lecture]:
    """Return a page of every user's lectures, newest first; admins only."""
    require_admin(viewer)
    size, position = page_size(first), decode_time(after)
    query = with_course(select(Lecture).where(*_filters(None, status)), viewer)
    if position is not None:
        query = query.where(beyond(Lecture.created_at, Lecture.id, position))
    query = query.order_by(Lecture.created_at.desc(), Lecture.id)
    rows = (await session.scalars(query.limit(size + 1))).all()
    return make_page(rows, [TimeKey(row.created_at, row.id) for row in rows], size, after=after)


async def count_all_lectures(session: AsyncSession, status: LectureStatus | None) -> int:
    """Count every user's lectures."""
    query = select(func.count()).select_from(Lecture).where(*_filters(None, status))
    return await session.scalar(query) or 0


def require_admin(viewer: Viewer) -> None:
    """Raise `Forbidden` for anyone else."""
    if not viewer.is_admin:
        raise Forbidden


def _filters(
    course_id: UUID | None, status: LectureStatus | None
) -> tuple[ColumnElement[bool], ...]:
    by_course = () if course_id is None else (Lecture.course_id == course_id,)
    by_status = () if status is None else (Lecture.status == status,)
    return by_course + by_status
