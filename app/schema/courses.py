"""The public shape of a course."""

import strawberry

from app.db import models
from app.schema.kernel.shapes import Node


@strawberry.type
class Course(Node):
    """A course of the catalogue, or one's own."""

    code: str | None = strawberry.field(description="As the catalogue has it: 'BIO 101'.")
    title: str | None = strawberry.field(description="What it is called.")
    instructor: str | None = strawberry.field(description="Who teaches it, where that is known.")
    is_official: bool = strawberry.field(description="Whether it is from the catalogue.")

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
