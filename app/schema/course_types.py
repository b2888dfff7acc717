"""The public shape of a course, and of the viewer."""

from collections.abc import Awaitable, Callable
from typing import Any

import strawberry

from app.db import models
from app.schema.scalars import BigInt
from app.schema.shapes import Node


@strawberry.type
class Course(Node):
    """A course of the catalogue, or one's own."""

    code: str | None
    title: str | None
    instructor: str | None
    is_official: bool

    @classmethod
    def from_model(cls, row: models.Course) -> "Course":
        """Return the row in its public shape."""
        return cls(
            id=strawberry.ID(str(row.id)),
            code=row.code,
            title=row.title,
            instructor=row.instructor,
            is_official=row.is_official,
        )


async def _stored_bytes(root: Any) -> BigInt:
    return BigInt(await root.sum_up())


@strawberry.type
class Viewer:
    """Who is asking."""

    id: strawberry.ID
    is_admin: bool
    stored_bytes_limit: BigInt | None = strawberry.field(
        description="How much the viewer's documents may take together; null where nothing limits "
        "them."
    )
    sum_up: strawberry.Private[Callable[[], Awaitable[int]]]
    stored_bytes: BigInt = strawberry.field(
        resolver=_stored_bytes,
        description="The sizes of all documents that the viewer is linked to, summed up.",
    )
