"""The public shape of a document, of what happens to it, and of what is asked of it."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import strawberry

from app.domain import DocumentStatus, EventKind, SummarySource
from app.schema.courses import Course
from app.schema.kernel.errors import InvalidInputError, NotFoundError, RateLimitedError
from app.schema.kernel.files import (
    DEFAULT_LINK_SECONDS,
    IsDownload,
    SignedLink,
    TimeToLive,
    signed_link,
)
from app.schema.kernel.reading import Asked
from app.schema.kernel.scalars import BigInt, Upload
from app.schema.kernel.shapes import Node, expose_enum
from app.services.documents.read import OwnDocument
from app.services.kernel.file_grants import DOCUMENT_FILE

expose_enum(
    DocumentStatus,
    "Where a document stands.",
    UPLOADED="It is there.",
    FAILED="It could not be kept.",
)


def _signed_file(
    root: "Document",
    info: Asked,
    ttl_seconds: TimeToLive = DEFAULT_LINK_SECONDS,
    download: IsDownload = False,
) -> SignedLink:
    return signed_link(
        info.context,
        DOCUMENT_FILE,
        root.file_url,
        UUID(root.id),
        ttl_seconds,
        download=bool(download),
    )


def _signed_file_url(
    root: "Document", info: Asked, ttl_seconds: TimeToLive = DEFAULT_LINK_SECONDS
) -> str:
    return _signed_file(root, info, ttl_seconds).url


@strawberry.type
class Document(Node):
    """A PDF of a course, shared by everyone linked to it."""

    course_id: UUID = strawberry.field(description="The course that it was uploaded to.")
    course: Course | None = strawberry.field(
        description="Null where the id names no course in the catalogue."
    )
    filename: str = strawberry.field(description="The name under which the viewer uploaded it.")
    mime_type: str = strawberry.field(description="Always application/pdf.")
    size_bytes: BigInt = strawberry.field(description="How large the file is.")
    page_count: int | None = strawberry.field(
        description="Null until it is counted, and where it cannot be."
    )
    has_text: bool | None = strawberry.field(
        description="Whether any page has text; null until it was looked at."
    )
    description: str | None = strawberry.field(
        description="What it is about, by a language model, where there is one; null: not told."
    )
    description_source: SummarySource | None = strawberry.field(
        description="Who wrote the description; null where there is none."
    )
    status: DocumentStatus = strawberry.field(description="Where it stands.")
    file_url: str = strawberry.field(
        description="Path on this service that streams the file, for users linked to it and admins."
    )
    revision: int = strawberry.field(
        description="Grows with every change of the document, the viewer's own name for it "
        "included; a client drops an event whose revision it has passed."
    )
    created_at: datetime = strawberry.field(description="When it was first uploaded.")
    updated_at: datetime = strawberry.field(description="When it last changed.")
    signed_file: SignedLink = strawberry.field(
        resolver=_signed_file,
        description="A link that lets anyone who holds it read the file until it expires: for "
        "pages and tabs that cannot send a token.",
    )
    signed_file_url: str = strawberry.field(
        resolver=_signed_file_url,
        description="The url of signedFile.",
    )

    @classmethod
    def from_model(cls, own: OwnDocument) -> "Document":
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
            has_text=row.has_text,
            description=row.description,
            description_source=row.description_source,
            status=row.status,
            file_url=f"/api/documents/{row.id}/file",
            revision=row.revision,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


@strawberry.type
class DocumentEvent:
    """A change of a document that the viewer is, or was, linked to."""

    kind: EventKind = strawberry.field(description="What happened.")
    document_id: strawberry.ID = strawberry.field(description="Its id.")
    document: Document | None = strawberry.field(
        description="document is null once the viewer has lost it."
    )


@strawberry.input
class UploadDocumentInput:
    """The PDF that a student dropped."""

    course_id: UUID = strawberry.field(description="The course that it is for.")
    file: Upload = strawberry.field(description="The file, a variable of a multipart request.")


@strawberry.type
class UploadDocumentPayload:
    """The document that the viewer is now linked to."""

    document: Document = strawberry.field(description="As it stands now.")
    created: bool = strawberry.field(
        description="False where the course had these very bytes already: the viewer is now "
        "linked to them."
    )


UploadDocumentResult = Annotated[
    UploadDocumentPayload | InvalidInputError | RateLimitedError,
    strawberry.union(
        "UploadDocumentResult", description="The document, or why it was not taken in."
    ),
]


@strawberry.type
class UnlinkDocumentPayload:
    """The viewer's link is gone."""

    document_id: strawberry.ID = strawberry.field(description="Its id.")
    deleted: bool = strawberry.field(
        description="True where the viewer was the last one linked, so that document and file are "
        "gone."
    )


UnlinkDocumentResult = Annotated[
    UnlinkDocumentPayload | NotFoundError,
    strawberry.union(
        "UnlinkDocumentResult", description="What became of the document, or that there is none."
    ),
]


@strawberry.type
class UnlinkDocumentsPayload:
    """What became of each document."""

    results: list[UnlinkDocumentResult] = strawberry.field(
        description="One for each id, in their order."
    )


UnlinkDocumentsResult = Annotated[
    UnlinkDocumentsPayload | InvalidInputError,
    strawberry.union(
        "UnlinkDocumentsResult", description="What became of the documents, or why nothing did."
    ),
]


@strawberry.type
class DeleteDocumentPayload:
    """The document is gone for everyone."""

    document_id: strawberry.ID = strawberry.field(description="Its id.")


DeleteDocumentResult = Annotated[
    DeleteDocumentPayload | NotFoundError,
    strawberry.union(
        "DeleteDocumentResult", description="The id of what is gone, or that there is none."
    ),
]
