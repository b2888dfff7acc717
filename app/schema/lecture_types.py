"""The public shape of a lecture, and of what happens to it."""

from datetime import datetime
from uuid import UUID

import strawberry

from app.db import models
from app.domain import DownloadStage, LectureFailure, LectureStatus
from app.schema.course_types import Course
from app.schema.scalars import BigInt
from app.schema.shapes import Node
from app.services.live import Change
from app.services.unconfirmed import named_session_id

strawberry.enum(LectureStatus, description="PENDING, DOWNLOADING, then COMPLETED or FAILED.")
strawberry.enum(
    DownloadStage, description="What the pipeline is doing while a lecture is DOWNLOADING."
)
strawberry.enum(
    LectureFailure, description="Why a lecture FAILED; stable for clients to switch on."
)


@strawberry.type
class DownloadProgress:
    """How far the download is."""

    stage: DownloadStage
    downloaded_bytes: BigInt
    total_bytes: BigInt | None = strawberry.field(
        description="Null while the source has not told its size."
    )
    percent: float | None = strawberry.field(description="0 to 100; null while totalBytes is.")


@strawberry.type
class Lecture(Node):
    """A recording of a course, shared by everyone linked to it."""

    course_id: UUID
    course: Course | None = strawberry.field(
        description="Null where the id names no course in the catalogue."
    )
    panopto_session_id: str | None
    panopto_url: str
    title: str | None
    duration_seconds: int | None
    status: LectureStatus
    failure: LectureFailure | None
    error_message: str | None
    progress: DownloadProgress | None
    revision: int = strawberry.field(
        description="Grows with every change of the lecture; a client drops an event whose "
        "revision it has passed."
    )
    attempt: int = strawberry.field(description="How often it was taken up by a worker.")
    next_attempt_at: datetime | None = strawberry.field(
        description="When a PENDING lecture that waits is tried again; null where it only queues."
    )
    started_at: datetime | None
    completed_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def from_model(cls, row: models.Lecture) -> "Lecture":
        """Return the row, read with its course, in its public shape."""
        return cls(
            id=strawberry.ID(str(row.id)),
            course_id=row.course_id,
            course=None if row.course is None else Course.from_model(row.course),
            panopto_session_id=named_session_id(row),
            panopto_url=row.panopto_url,
            title=row.title,
            duration_seconds=row.duration_seconds,
            status=row.status,
            failure=row.failure,
            error_message=row.error_message,
            progress=_progress(row),
            revision=row.revision,
            attempt=row.attempt,
            next_attempt_at=row.next_attempt_at,
            started_at=row.started_at,
            completed_at=row.completed_at,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


def _progress(row: models.Lecture) -> DownloadProgress | None:
    if row.stage is None:
        return None
    total = row.total_bytes
    return DownloadProgress(
        stage=row.stage,
        downloaded_bytes=BigInt(row.downloaded_bytes),
        total_bytes=None if total is None else BigInt(total),
        percent=min(100.0, 100.0 * row.downloaded_bytes / total) if total else None,
    )


@strawberry.type
class LectureEvent:
    """A change of a lecture that the viewer is, or was, linked to."""

    lecture_id: strawberry.ID
    lecture: Lecture | None = strawberry.field(
        description="lecture is null once the viewer has lost it."
    )

    @classmethod
    def from_change(cls, change: Change[models.Lecture]) -> "LectureEvent":
        """Return the change in its public shape."""
        lecture = None if change.item is None else Lecture.from_model(change.item)
        return cls(lecture_id=strawberry.ID(str(change.item_id)), lecture=lecture)
