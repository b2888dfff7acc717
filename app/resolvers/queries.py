"""Queries: each opens a short session of its own, since sibling fields run concurrently."""

from uuid import UUID

import strawberry

from app import domain
from app.resolvers.info import Info, counter, document_by_id, document_shape, lecture_by_id
from app.schema import course_types
from app.schema.course_types import Course
from app.schema.document_types import Document
from app.schema.lecture_types import Lecture
from app.schema.scalars import BigInt, parse_uuid
from app.schema.shapes import Connection, Node, make_connection
from app.services import courses as course_service
from app.services import documents as document_service
from app.services import lectures as lecture_service
from app.services.quotas import stored_bytes


async def viewer(info: Info) -> course_types.Viewer:
    """Return who is asking."""
    asking, limit = info.context.viewer, info.context.allowance.max_bytes
    return course_types.Viewer(
        id=strawberry.ID(str(asking.id)),
        is_admin=asking.is_admin,
        stored_bytes_limit=None if limit is None else BigInt(limit),
        sum_up=counter(info, lambda session: stored_bytes(session, asking.id)),
    )


async def node(info: Info, id: strawberry.ID) -> Node | None:
    """Return whatever the viewer may see under this id."""
    return await lecture(info, id) or await document(info, id) or await course(info, id)


async def lecture(info: Info, id: strawberry.ID) -> Lecture | None:
    """Return one lecture."""
    row = await lecture_by_id(info, parse_uuid(id))
    return None if row is None else Lecture.from_model(row)


async def lectures(
    info: Info,
    course_id: UUID | None = None,
    status: domain.LectureStatus | None = None,
    first: int | None = 20,
    after: str | None = None,
) -> Connection[Lecture]:
    """Return a page of the viewer's lectures."""
    asking = info.context.viewer
    async with info.context.session() as session:
        page = await lecture_service.list_lectures(session, asking, course_id, status, first, after)
    count = counter(info, lambda s: lecture_service.count_lectures(s, asking, course_id, status))
    return make_connection(page, Lecture.from_model, count)


async def document(info: Info, id: strawberry.ID) -> Document | None:
    """Return one document."""
    own = await document_by_id(info, parse_uuid(id))
    return None if own is None else document_shape(info)(own)


async def documents(
    info: Info,
    course_id: UUID | None = None,
    first: int | None = 20,
    after: str | None = None,
) -> Connection[Document]:
    """Return a page of the viewer's documents."""
    asking = info.context.viewer
    async with info.context.session() as session:
        page = await document_service.list_documents(session, asking, course_id, first, after)
    count = counter(info, lambda s: document_service.count_documents(s, asking, course_id))
    return make_connection(page, document_shape(info), count)


async def course(info: Info, id: strawberry.ID) -> Course | None:
    """Return one course."""
    course_id = parse_uuid(id)
    async with info.context.session() as session:
        row = await course_service.get_course(session, info.context.viewer, course_id)
    return None if row is None else Course.from_model(row)


async def courses(
    info: Info, search: str | None = None, first: int | None = 20, after: str | None = None
) -> Connection[Course]:
    """Return a page of the catalogue."""
    asking = info.context.viewer
    async with info.context.session() as session:
        page = await course_service.list_courses(session, asking, search, first, after)
    count = counter(info, lambda s: course_service.count_courses(s, asking, search))
    return make_connection(page, Course.from_model, count)


async def all_lectures(
    info: Info,
    status: domain.LectureStatus | None = None,
    first: int | None = 20,
    after: str | None = None,
) -> Connection[Lecture]:
    """Return a page of every user's lectures."""
    asking = info.context.viewer
    async with info.context.session() as session:
        page = await lecture_service.list_all_lectures(session, asking, status, first, after)
    count = counter(info, lambda s: lecture_service.count_all_lectures(s, status))
    return make_connection(page, Lecture.from_model, count)
