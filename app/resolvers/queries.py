"""Queries: each opens a short session of its own, since sibling fields run concurrently."""

from collections.abc import Collection
from typing import Annotated
from uuid import UUID

import strawberry

from app import domain
from app.errors import BadUserInput
from app.resolvers.info import Info, counter, document_shape
from app.schema import account as viewer_types
from app.schema.courses import Course
from app.schema.documents import Document
from app.schema.kernel.limits import LINKS_PER_REQUEST, OPERATIONS_PER_SOCKET
from app.schema.kernel.scalars import BigInt, parse_uuid
from app.schema.kernel.shapes import (
    After,
    Connection,
    First,
    ItemId,
    LinkedConnection,
    Node,
    make_connection,
    make_linked_connection,
)
from app.schema.lectures import Lecture
from app.services.courses import read as course_service
from app.services.documents import read as document_service
from app.services.kernel.keyset import MAX_PAGE_SIZE
from app.services.kernel.quotas import stored_bytes
from app.services.lectures import read as lecture_service

OfCourse = Annotated[UUID | None, strawberry.argument(description="Those of this course alone.")]
OfStatus = Annotated[
    domain.LectureStatus | None, strawberry.argument(description="Those that stand there alone.")
]


async def viewer(info: Info) -> viewer_types.Viewer:
    """Return who is asking."""
    asking, limit = info.context.viewer, info.context.allowance.max_bytes
    return viewer_types.Viewer(
        id=strawberry.ID(str(asking.id)),
        is_admin=asking.is_admin,
        stored_bytes_limit=None if limit is None else BigInt(limit),
        sum_up=counter(info, lambda session: stored_bytes(session, asking.id)),
        count_lectures=counter(info, lambda s: lecture_service.count_by_status(s, asking)),
    )


async def limits(info: Info) -> viewer_types.Limits:
    """Return what the service allows."""
    return viewer_types.Limits(
        max_upload_bytes=BigInt(info.context.app.settings.max_upload_bytes),
        operations_per_socket=OPERATIONS_PER_SOCKET,
        links_per_request=LINKS_PER_REQUEST,
        max_page_size=MAX_PAGE_SIZE,
    )


async def node(info: Info, id: ItemId) -> Node | None:
    """Return whatever the viewer may see under this id."""
    return (await _find(info, [parse_uuid(id)]))[0]


async def nodes(
    info: Info,
    ids: Annotated[
        list[strawberry.ID],
        strawberry.argument(description="1 to 100 ids, of lectures, documents and courses."),
    ],
) -> list[Node | None]:
    """Return whatever the viewer may see under these ids, in their order."""
    if not 1 <= len(ids) <= MAX_PAGE_SIZE:
        raise BadUserInput(f"`ids` must be 1 to {MAX_PAGE_SIZE} ids.")
    return await _find(info, [parse_uuid(text) for text in ids])


async def _find(info: Info, ids: list[UUID]) -> list[Node | None]:
    """Ask for one type after the other, each for what is not found yet."""
    asking, found = info.context.viewer, dict[UUID, Node]()
    async with info.context.session() as session:
        for id_, row in (await lecture_service.get_lectures(session, asking, ids)).items():
            found[id_] = Lecture.from_model(row)
        if rest := set(ids) - found.keys():
            shape = document_shape(info)
            for id_, own in (await document_service.get_documents(session, asking, rest)).items():
                found[id_] = shape(own)
        if rest := set(ids) - found.keys():
            for id_, course in (await course_service.get_courses(session, asking, rest)).items():
                found[id_] = Course.from_model(course)
    return [found.get(id_) for id_ in ids]


async def lecture(info: Info, id: ItemId) -> Lecture | None:
    """Return one lecture."""
    lecture_id = parse_uuid(id)
    async with info.context.session() as session:
        row = await lecture_service.get_lecture(session, info.context.viewer, lecture_id)
    return None if row is None else Lecture.from_model(row)


async def lectures(
    info: Info,
    course_id: OfCourse = None,
    status: OfStatus = None,
    statuses: Annotated[
        list[domain.LectureStatus] | None,
        strawberry.argument(description="Those that stand at one of these: none, where it is []."),
    ] = None,
    first: First = 20,
    after: After = None,
) -> LinkedConnection[Lecture]:
    """Return a page of the viewer's lectures."""
    asking, wanted = info.context.viewer, _wanted(status, statuses)
    async with info.context.session() as session:
        page = await lecture_service.list_lectures(session, asking, course_id, wanted, first, after)
    count = counter(info, lambda s: lecture_service.count_lectures(s, asking, course_id, wanted))
    return make_linked_connection(page, Lecture.from_model, count)


def _wanted(
    status: domain.LectureStatus | None, statuses: list[domain.LectureStatus] | None
) -> Collection[domain.LectureStatus] | None:
    """Return the statuses that both arguments let through; None where neither is given."""
    if statuses is None:
        return None if status is None else {status}
    return set(statuses) if status is None else {status}.intersection(statuses)


async def document(info: Info, id: ItemId) -> Document | None:
    """Return one document."""
    document_id = parse_uuid(id)
    async with info.context.session() as session:
        own = await document_service.get_document(session, info.context.viewer, document_id)
    return None if own is None else document_shape(info)(own)


async def documents(
    info: Info, course_id: OfCourse = None, first: First = 20, after: After = None
) -> LinkedConnection[Document]:
    """Return a page of the viewer's documents."""
    asking = info.context.viewer
    async with info.context.session() as session:
        page = await document_service.list_documents(session, asking, course_id, first, after)
    count = counter(info, lambda s: document_service.count_documents(s, asking, course_id))
    return make_linked_connection(page, document_shape(info), count)


async def course(info: Info, id: ItemId) -> Course | None:
    """Return one course."""
    course_id = parse_uuid(id)
    async with info.context.session() as session:
        row = await course_service.get_course(session, info.context.viewer, course_id)
    return None if row is None else Course.from_model(row)


async def courses(
    info: Info,
    search: Annotated[
        str | None,
        strawberry.argument(
            description="At most 8 words and 200 characters, each of which code, title or "
            "instructor must have."
        ),
    ] = None,
    first: First = 20,
    after: After = None,
) -> Connection[Course]:
    """Return a page of the catalogue."""
    asking = info.context.viewer
    async with info.context.session() as session:
        page = await course_service.list_courses(session, asking, search, first, after)
    count = counter(info, lambda s: course_service.count_courses(s, asking, search))
    return make_connection(page, Course.from_model, count)


async def all_lectures(
    info: Info, status: OfStatus = None, first: First = 20, after: After = None
) -> LinkedConnection[Lecture]:
    """Return a page of every user's lectures."""
    asking = info.context.viewer
    async with info.context.session() as session:
        page = await lecture_service.list_all_lectures(session, asking, status, first, after)
    count = counter(info, lambda s: lecture_service.count_all_lectures(s, status))
    return make_linked_connection(page, Lecture.from_model, count)
