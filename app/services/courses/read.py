"""The course catalogue, and each user's own courses."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.viewer import Viewer
from app.db.models import Course
from app.services.kernel.keyset import ByCode, Page, read_page
from app.services.kernel.word_search import has_words


def visible_to(viewer: Viewer) -> ColumnElement[bool]:
    """Return the condition under which a course may be shown: the catalogue's, or one's own."""
    if viewer.is_admin:
        return true()
    return or_(Course.owner_id.is_(None), Course.owner_id == viewer.id)


async def get_course(session: AsyncSession, viewer: Viewer, course_id: UUID) -> Course | None:
    """Return the course, or None where there is none that the viewer may see."""
    return (await get_courses(session, viewer, [course_id])).get(course_id)


async def get_courses(
    session: AsyncSession, viewer: Viewer, ids: Collection[UUID]
) -> dict[UUID, Course]:
    """Return those of the courses that the viewer may see, by id."""
    query = select(Course).where(Course.id.in_(ids), visible_to(viewer))
    return {course.id: course for course in await session.scalars(query)}


async def list_courses(
    session: AsyncSession, viewer: Viewer, search: str | None, first: int | None, after: str | None
) -> Page[Course]:
    """Return a page of the catalogue by code; ``search`` looks into code, title and instructor."""
    query = select(Course).where(_matching(viewer, search))
    order = ByCode(Course.code, Course.id)
    return await read_page(session, query, order, lambda row: row[0], first, after)


async def count_courses(session: AsyncSession, viewer: Viewer, search: str | None) -> int:
    """Count the whole list."""
    query = select(func.count()).select_from(Course).where(_matching(viewer, search))
    return await session.scalar(query) or 0


def _matching(viewer: Viewer, search: str | None) -> ColumnElement[bool]:
    columns = (Course.code, Course.title, Course.instructor)
    return and_(visible_to(viewer), has_words(search, columns))
