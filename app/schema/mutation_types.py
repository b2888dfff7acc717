"""Inputs, payloads and result unions, each beside the mutation that it belongs to."""

from typing import Annotated
from uuid import UUID

import strawberry

from app.schema.document_types import Document
from app.schema.error_types import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    RateLimitedError,
)
from app.schema.lecture_types import Lecture
from app.schema.scalars import Upload

# requestLectureDownload


@strawberry.input
class RequestLectureDownloadInput:
    """The link that a student pasted."""

    course_id: UUID
    panopto_url: str = strawberry.field(description="The viewer link that the browser shows.")
    stream_url: str | None = strawberry.field(
        default=None,
        description="A direct media URL (mp4 or HLS); left out, it is resolved from panoptoUrl.",
    )
    title: str | None = None


@strawberry.type
class RequestLectureDownloadPayload:
    """The lecture that the viewer is now linked to."""

    lecture: Lecture
    created: bool = strawberry.field(
        description="False where the course had this recording already: the viewer is now linked "
        "to it."
    )


RequestLectureDownloadResult = Annotated[
    RequestLectureDownloadPayload | InvalidInputError | RateLimitedError,
    strawberry.union("RequestLectureDownloadResult"),
]

# retryLectureDownload, cancelLectureDownload


@strawberry.type
class LecturePayload:
    """The lecture as it stands now."""

    lecture: Lecture


RetryLectureDownloadResult = Annotated[
    LecturePayload | NotFoundError | ConflictError | RateLimitedError,
    strawberry.union("RetryLectureDownloadResult"),
]
CancelLectureDownloadResult = Annotated[
    LecturePayload | NotFoundError | ConflictError,
    strawberry.union("CancelLectureDownloadResult"),
]

# uploadDocument


@strawberry.input
class UploadDocumentInput:
    """The PDF that a student dropped."""

    course_id: UUID
    file: Upload


@strawberry.type
class UploadDocumentPayload:
    """The document that the viewer is now linked to."""

    document: Document
    created: bool = strawberry.field(
        description="False where the course had these very bytes already: the viewer is now "
        "linked to them."
    )


UploadDocumentResult = Annotated[
    UploadDocumentPayload | InvalidInputError | RateLimitedError,
    strawberry.union("UploadDocumentResult"),
]

# unlinkLecture, unlinkDocument


@strawberry.type
class UnlinkLecturePayload:
    """The viewer's link is gone."""

    lecture_id: strawberry.ID
    deleted: bool = strawberry.field(
        description="True where the viewer was the last one linked, so that lecture and files are "
        "gone."
    )


UnlinkLectureResult = Annotated[
    UnlinkLecturePayload | NotFoundError, strawberry.union("UnlinkLectureResult")
]


@strawberry.type
class UnlinkDocumentPayload:
    """The viewer's link is gone."""

    document_id: strawberry.ID
    deleted: bool


UnlinkDocumentResult = Annotated[
    UnlinkDocumentPayload | NotFoundError, strawberry.union("UnlinkDocumentResult")
]

# deleteLecture, deleteDocument


@strawberry.type
class DeleteLecturePayload:
    """The lecture is gone for everyone."""

    lecture_id: strawberry.ID


DeleteLectureResult = Annotated[
    DeleteLecturePayload | NotFoundError, strawberry.union("DeleteLectureResult")
]


@strawberry.type
class DeleteDocumentPayload:
    """The document is gone for everyone."""

    document_id: strawberry.ID


DeleteDocumentResult = Annotated[
    DeleteDocumentPayload | NotFoundError, strawberry.union("DeleteDocumentResult")
]
