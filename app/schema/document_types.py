"""The public shape of a document, and of what happens to it."""

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import strawberry

from app.domain import DocumentStatus
from app.errors import BadUserInput
from app.schema.course_types import Course
from app.schema.scalars import BigInt
from app.schema.shapes import Node
from app.services.documents import OwnDocument

strawberry.enum(DocumentStatus, description="Where a document stands.")

MIN_LINK_SECONDS = 30
MAX_LINK_SECONDS = 3600
DEFAULT_LINK_SECONDS = 300

SignLink = Callable[[UUID, int], str]
"""From a document's id and a time to live in seconds to the signed query string."""


def _signed_file_url(root: Any, ttl_seconds: int | None = DEFAULT_LINK_SECONDS) -> str:
    ttl = DEFAULT_LINK_SECONDS if ttl_seconds is None else ttl_seconds
    if not MIN_LINK_SECONDS <= ttl <= MAX_LINK_SECONDS:
        raise BadUserInput(f"`ttlSeconds` must be from {MIN_LINK_SECONDS} to {MAX_LINK_SECONDS}.")
    return f"{root.file_url}?{root.sign(UUID(root.id), ttl)}"


@strawberry.type
class Document(Node):
    """A PDF of a course, shared by everyone linked to it."""

    course_id: UUID
    course: Course | None
    filename: str = strawberry.field(description="The name under which the viewer uploaded it.")
    mime_type: str
    size_bytes: BigInt
    page_count: int | None
    description: str | None
    status: DocumentStatus
    file_url: str = strawberry.field(
        description="Path on this service that streams the file, for users linked to it and admins."
    )
    created_at: datetime
    updated_at: datetime
    sign: strawberry.Private[SignLink]

    signed_file_url: str = strawberry.field(
        resolver=_signed_file_url,
        description="The same with a signature that lets anyone who holds the link read the file "
        "until it expires: for links and tabs that cannot send a token. 30 to 3600 seconds.",
    )

    @classmethod
    def from_model(cls, own: OwnDocument, sign: SignLink) -> "Document":
        """Return the row as its viewer has it, in its public shape."""
        row = own.document
        return cls(
            id=strawberry.ID(str(row.id)),
            course_id=row.course_id,
            course=None if row.course is None else Course.from_model(row.course),
            filename=own.filename,
            mime_type=row.mime_type,
            size_bytes=BigInt(row.size_bytes),
            page_count=row.page_count,
            description=row.description,
            status=row.status,
            file_url=f"/api/documents/{row.id}/file",
            created_at=row.created_at,
            updated_at=row.updated_at,
            sign=sign,
        )


@strawberry.type
class DocumentEvent:
    """A change of a document that the viewer is, or was, linked to."""

    document_id: strawberry.ID
    document: Document | None = strawberry.field(
        description="document is null once the viewer has lost it."
    )
