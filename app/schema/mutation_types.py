"""Inputs, payloads and result unions, each beside the mutation that it belongs to."""

from typing import Annotated
from uuid import UUID

import strawberry

from app.schema.documents import Document
from app.schema.kernel.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    RateLimitedError,
)
from app.schema.kernel.scalars import Upload
from app.schema.lectures import Lecture

# requestLectureDownload


@strawberry.input
class RequestLectureDownloadInput:
    """The link that a student pasted."""

    course_id: UUID = strawberry.field(description="The course that it is for.")
    panopto_url: str = strawberry.field(description="The viewer link that the browser shows.")
    stream_url: str | None = strawberry.field(
        default=None,
        description="A direct media URL (mp4 or HLS); left out, it is resolved from panoptoUrl.",
    )
    title: str | None = strawberry.field(
        default=None, description="Left out or blank: the recording's own."
    )


@strawberry.type
class RequestLectureDownloadPayload:
    """The lecture that the viewer is now linked to."""

    lecture: Lecture = strawberry.field(description="As it stands now.")
    created: bool = strawberry.field(
        description="False where the course had this recording already: the viewer is now linked "
        "to it."
    )


RequestLectureDownloadResult = Annotated[
    RequestLectureDownloadPayload | InvalidInputError | RateLimitedError,
    strawberry.union(
        "RequestLectureDownloadResult", description="The lecture, or why it was not asked for."
    ),
]

# retryLectureDownload, cancelLectureDownload


@strawberry.type
class LecturePayload:
    """The lecture as it stands now."""

    lecture: Lecture = strawberry.field(description="As it stands now.")


RetryLectureDownloadResult = Annotated[
    LecturePayload | NotFoundError | ConflictError | RateLimitedError,
    strawberry.union(
        "RetryLectureDownloadResult", description="The lecture, or why it is not tried again."
    ),
]
CancelLectureDownloadResult = Annotated[
    LecturePayload | NotFoundError | ConflictError,
    strawberry.union("CancelLectureDownloadResult", description="The lecture, or why it goes on."),
]

# uploadDocument


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

# unlinkLecture, unlinkDocument


@strawberry.type
class UnlinkLecturePayload:
    """The viewer's link is gone."""

    lecture_id: strawberry.ID = strawberry.field(description="Its id.")
    deleted: bool = strawberry.field(
        description="True where the viewer was the last one linked, so that lecture and files are "
        "gone."
    )


UnlinkLectureResult = Annotated[
    UnlinkLecturePayload | NotFoundError,
    strawberry.union(
        "UnlinkLectureResult", description="What became of the lecture, or that there is none."
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

# unlinkLectures, unlinkDocuments


@strawberry.type
class UnlinkLecturesPayload:
    """What became of each lecture."""

    results: list[UnlinkLectureResult] = strawberry.field(
        description="One for each id, in their order."
    )


UnlinkLecturesResult = Annotated[
    UnlinkLecturesPayload | InvalidInputError,
    strawberry.union(
        "UnlinkLecturesResult", description="What became of the lectures, or why nothing did."
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

# deleteLecture, deleteDocument


@strawberry.type
class DeleteLecturePayload:
    """The lecture is gone for everyone."""

    lecture_id: strawberry.ID = strawberry.field(description="Its id.")


DeleteLectureResult = Annotated[
    DeleteLecturePayload | NotFoundError,
    strawberry.union(
        "DeleteLectureResult", description="The id of what is gone, or that there is none."
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
