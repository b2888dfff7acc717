"""Courses: what is read of them."""

from typing import Annotated

import strawberry

from app.resolvers.info import Info, counter
from app.schema.courses import Course
from app.schema.kernel.scalars import parse_uuid
from app.schema.kernel.shapes import After, Connection, First, ItemId, make_connection
from app.services.courses import read


@strawberry.type
class CourseQueries:
    """Reading courses."""

    @strawberry.field(description="Null where the viewer may not see it.")
    async def course(self, info: Info, id: ItemId) -> Course | None:
        """Return one course."""
        course_id = parse_uuid(id)
        async with info.context.session() as session:
            row = await read.get_course(session, info.context.viewer, course_id)
        return None if row is None else Course.from_model(row)

    @strawberry.field(description="The catalogue, by code.")
    async def courses(
        self,
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
            page = await read.list_courses(session, asking, search, first, after)
        count = counter(info, lambda s: read.count_courses(s, asking, search))
        return make_connection(page, Course.from_model, count)
