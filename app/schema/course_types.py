"""The public shape of a course, and of the viewer."""

import strawberry

from app.db import models
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


@strawberry.type
class Viewer:
    """Who is asking."""

    id: strawberry.ID
    is_admin: bool
