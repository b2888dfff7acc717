"""Lectures, the links of users to them, and the names of those that were merged away.

``panopto_session_id`` or, where it is null, ``canonical_url`` is a recording's identity within its
course.  Storage keys are logical, never paths.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, query_expression, relationship

from app.db.models.base import Base, linked_key, new_id, now
from app.db.models.courses import Course
from app.domain import DownloadStage, LectureFailure, LectureSource, LectureStatus

# A B-tree takes keys of up to 2,704 bytes; the course's id and the row's header are in them too.
_INDEXABLE_URL = "octet_length(canonical_url) <= 2600"


class Lecture(Base):
    """A recording of a course, shared by everyone linked to it."""

    __tablename__ = "lectures"
    __table_args__ = (
        UniqueConstraint("course_id", "panopto_session_id"),
        Index("idx_lectures_course_id", "course_id"),
        Index(
            "uq_lectures_course_id_canonical_url",
            "course_id",
            "canonical_url",
            unique=True,
            postgresql_where=text("panopto_session_id IS NULL"),
        ),
        Index("idx_lectures_created_at", text("created_at DESC"), "id"),
        CheckConstraint("panopto_session_id = lower(panopto_session_id)", name="session_id"),
        CheckConstraint(
            "char_length(panopto_url) <= 2048 AND char_length(stream_url) <= 2048", name="urls"
        ),
        CheckConstraint(_INDEXABLE_URL, name="canonical_url"),
        CheckConstraint("checksum ~ '^[0-9a-f]{64}$'", name="checksum"),
        CheckConstraint("(status = 'failed') = (failure IS NOT NULL)", name="failure"),
        CheckConstraint(
            "downloaded_bytes >= 0 AND total_bytes >= 0 AND duration_seconds >= 0 AND attempt >= 0",
            name="counts",
        ),
        # Room in each page, so that a progress update finds its place beside the old version.
        {"postgresql_with": {"fillfactor": 80}},
    )

    id: Mapped[UUID] = new_id()
    course_id: Mapped[UUID]
    panopto_session_id: Mapped[str | None]
    panopto_url: Mapped[str]
    canonical_url: Mapped[str]
    stream_url: Mapped[str | None]
    title: Mapped[str | None]
    audio_storage_key: Mapped[str | None]
    transcript_storage_key: Mapped[str | None]
    duration_seconds: Mapped[int | None]
    status: Mapped[LectureStatus] = mapped_column(server_default=LectureStatus.PENDING.value)
    failure: Mapped[LectureFailure | None]
    error_message: Mapped[str | None]
    stage: Mapped[DownloadStage | None]
    downloaded_bytes: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    total_bytes: Mapped[int | None] = mapped_column(BigInteger)
    revision: Mapped[int] = mapped_column(server_default=text("1"))
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    next_attempt_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    source: Mapped[LectureSource] = mapped_column(server_default=LectureSource.LINK.value)
    platform: Mapped[str | None]
    checksum: Mapped[str | None]
    upload_storage_key: Mapped[str | None]
    upload_bytes: Mapped[int | None] = mapped_column(BigInteger)
    audio_bytes: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = now()
    updated_at: Mapped[datetime] = now()

    course: Mapped[Course | None] = relationship(
        primaryjoin="foreign(Lecture.course_id) == Course.id", viewonly=True, lazy="raise"
    )
    # No column: whether others use it too, so that the viewer who reads it may not cancel it.
    # Null where it was not read for a viewer.
    is_held: Mapped[bool | None] = query_expression()
    # No column: the name under which the viewer who reads it has uploaded it.
    filename: Mapped[str | None] = query_expression()


class LectureAlias(Base):
    """The id, and the spelling, of a lecture that was merged into another."""

    __tablename__ = "lecture_aliases"
    __table_args__ = (
        Index("idx_lecture_aliases_lecture_id", "lecture_id"),
        UniqueConstraint("course_id", "canonical_url"),
        CheckConstraint("id <> lecture_id", name="other"),
        CheckConstraint(_INDEXABLE_URL, name="canonical_url"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    lecture_id: Mapped[UUID] = mapped_column(ForeignKey("lectures.id", ondelete="CASCADE"))
    course_id: Mapped[UUID]
    canonical_url: Mapped[str]
    created_at: Mapped[datetime] = now()


class UserLecture(Base):
    """A user's link to a lecture."""

    __tablename__ = "user_lectures"
    __table_args__ = (
        Index("idx_user_lectures_lecture_id", "lecture_id"),
        Index(
            "idx_user_lectures_user_id_created_at", "user_id", text("created_at DESC"), "lecture_id"
        ),
    )

    user_id: Mapped[UUID] = linked_key("users.id")
    lecture_id: Mapped[UUID] = linked_key("lectures.id")
    filename: Mapped[str | None]
    created_at: Mapped[datetime] = now()
