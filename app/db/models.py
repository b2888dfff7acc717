"""The tables, as SQLAlchemy maps them.  `alembic/` makes them; triggers live there alone.

``panopto_session_id`` or, where it is null, ``canonical_url`` is a recording's identity within its
course.  Storage keys are logical, never paths.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, query_expression, relationship

from app.domain import DocumentStatus, DownloadStage, JobState, LectureFailure, LectureStatus

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

NOBODY = UUID(int=0)
"""Whose turn work takes that no user asked for."""

# A B-tree takes keys of up to 2,704 bytes; the course's id and the row's header are in them too.
_INDEXABLE_URL = "octet_length(canonical_url) <= 2600"


def _enum(kind: type[StrEnum], name: str) -> Enum:
    return Enum(kind, name=name, values_callable=lambda members: [m.value for m in members])


class Base(DeclarativeBase):
    """Every table's root: ids and times come from the database unless given."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {
        str: Text(),
        int: Integer(),
        datetime: DateTime(timezone=True),
        UUID: PG_UUID(as_uuid=True),
        LectureStatus: _enum(LectureStatus, "lecture_status"),
        DocumentStatus: _enum(DocumentStatus, "document_status"),
        LectureFailure: _enum(LectureFailure, "lecture_failure"),
        DownloadStage: _enum(DownloadStage, "download_stage"),
        JobState: _enum(JobState, "job_state"),
    }


def _id() -> Mapped[UUID]:
    return mapped_column(primary_key=True, server_default=func.gen_random_uuid())


def _now() -> Mapped[datetime]:
    return mapped_column(server_default=func.now())


def _key(table: str, **options: Any) -> Mapped[UUID]:
    return mapped_column(ForeignKey(table, ondelete="CASCADE"), primary_key=True, **options)


class User(Base):
    """Someone whose token we have seen and needed a row for."""

    __tablename__ = "users"
    __table_args__ = (UniqueConstraint("issuer", "subject"),)

    id: Mapped[UUID] = _id()
    issuer: Mapped[str]
    subject: Mapped[str]
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()


class Course(Base):
    """A course of the catalogue, or one user's own where ``owner_id`` is set."""

    __tablename__ = "courses"
    __table_args__ = (UniqueConstraint("code", name="uq_courses_code"),)

    id: Mapped[UUID] = _id()
    code: Mapped[str]
    title: Mapped[str]
    instructor: Mapped[str | None]
    is_official: Mapped[bool] = mapped_column(server_default=text("false"))
    owner_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()


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
        CheckConstraint("(status = 'failed') = (failure IS NOT NULL)", name="failure"),
        CheckConstraint(
            "downloaded_bytes >= 0 AND total_bytes >= 0 AND duration_seconds >= 0 AND attempt >= 0",
            name="counts",
        ),
        # Room in each page, so that a progress update finds its place beside the old version.
        {"postgresql_with": {"fillfactor": 80}},
    )

    id: Mapped[UUID] = _id()
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
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()

    course: Mapped[Course | None] = relationship(
        primaryjoin="foreign(Lecture.course_id) == Course.id", viewonly=True, lazy="raise"
    )
    # No column: whether others use it too, so that the viewer who reads it may not cancel it.
    # Null where it was not read for a viewer.
    is_held: Mapped[bool | None] = query_expression()


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
    created_at: Mapped[datetime] = _now()


class Document(Base):
    """A PDF of a course, shared by everyone linked to it; its bytes are its identity."""

    __tablename__ = "documents"
    __table_args__ = (
        UniqueConstraint("course_id", "checksum"),
        Index("idx_documents_course_id", "course_id"),
        Index("idx_documents_checksum", "checksum"),
        CheckConstraint("checksum ~ '^[0-9a-f]{64}$'", name="checksum"),
        CheckConstraint("size_bytes >= 0 AND page_count >= 0", name="counts"),
    )

    id: Mapped[UUID] = _id()
    course_id: Mapped[UUID]
    filename: Mapped[str]
    storage_key: Mapped[str]
    checksum: Mapped[str]
    mime_type: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    page_count: Mapped[int | None]
    description: Mapped[str | None]
    status: Mapped[DocumentStatus] = mapped_column(server_default=DocumentStatus.UPLOADED.value)
    revision: Mapped[int] = mapped_column(server_default=text("1"))
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()

    course: Mapped[Course | None] = relationship(
        primaryjoin="foreign(Document.course_id) == Course.id", viewonly=True, lazy="raise"
    )


class UserLecture(Base):
    """A user's link to a lecture."""

    __tablename__ = "user_lectures"
    __table_args__ = (
        Index("idx_user_lectures_lecture_id", "lecture_id"),
        Index(
            "idx_user_lectures_user_id_created_at", "user_id", text("created_at DESC"), "lecture_id"
        ),
    )

    user_id: Mapped[UUID] = _key("users.id")
    lecture_id: Mapped[UUID] = _key("lectures.id")
    created_at: Mapped[datetime] = _now()


class UserDocument(Base):
    """A user's link to a document, with the filename under which that user uploaded it."""

    __tablename__ = "user_documents"
    __table_args__ = (
        Index("idx_user_documents_document_id", "document_id"),
        Index(
            "idx_user_documents_user_id_created_at",
            "user_id",
            text("created_at DESC"),
            "document_id",
        ),
    )

    user_id: Mapped[UUID] = _key("users.id")
    document_id: Mapped[UUID] = _key("documents.id")
    filename: Mapped[str]
    created_at: Mapped[datetime] = _now()


class Job(Base):
    """A row of the ledger: when a piece of background work runs, and who holds it.

    Scheduling only; what became of a lecture is read from the lecture.  ``attempt`` counts the
    transient failures that were tried again, ``crashes`` the workers that died holding it.
    ``user_id`` is whose waiting work it counts as when workers take turns over users (`NOBODY`'s
    where it is no user's).  ``holder`` names the process that claimed it last.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index(
            "uq_jobs_kind_subject_id_open",
            "kind",
            "subject_id",
            unique=True,
            postgresql_where=text("state IN ('queued', 'running')"),
        ),
        Index(
            "idx_jobs_queued",
            "kind",
            "user_id",
            "run_at",
            "id",
            postgresql_where=text("state = 'queued' AND run_at <= created_at"),
        ),
        Index(
            "idx_jobs_put_off",
            "kind",
            "run_at",
            "id",
            postgresql_where=text("state = 'queued' AND run_at > created_at"),
        ),
        # Not on lease_until: few rows run at once, and a heartbeat that changes an indexed column
        # would write every index of the row anew.  For the same reason no heartbeat changes
        # updated_at (its trigger ignores lease_until).
        Index("idx_jobs_running", "kind", postgresql_where=text("state = 'running'")),
        Index(
            "idx_jobs_finished",
            "updated_at",
            postgresql_where=text("state IN ('done', 'failed', 'cancelled')"),
        ),
        CheckConstraint(
            "(state = 'running') = (lease_token IS NOT NULL)"
            " AND (lease_token IS NULL) = (lease_until IS NULL)",
            name="lease",
        ),
        CheckConstraint("attempt >= 0 AND crashes >= 0", name="counts"),
        {"postgresql_with": {"fillfactor": 70}},
    )

    id: Mapped[UUID] = _id()
    kind: Mapped[str]
    subject_id: Mapped[UUID]
    user_id: Mapped[UUID] = mapped_column(server_default=str(NOBODY))
    state: Mapped[JobState] = mapped_column(server_default=JobState.QUEUED.value)
    run_at: Mapped[datetime] = _now()
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    crashes: Mapped[int] = mapped_column(server_default=text("0"))
    lease_token: Mapped[UUID | None]
    lease_until: Mapped[datetime | None]
    holder: Mapped[str | None]
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()
