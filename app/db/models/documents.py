"""Documents, and the links of users to them."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Index,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db.models.base import Base, linked_key, new_id, now
from app.db.models.courses import Course
from app.db.models.search import Indexed
from app.domain import DocumentStatus, SummarySource


class Document(Indexed, Base):
    """A PDF of a course, shared by everyone linked to it; its bytes are its identity."""

    __tablename__ = "documents"
    __table_args__ = (
        UniqueConstraint("course_id", "checksum"),
        Index("idx_documents_course_id", "course_id"),
        Index("idx_documents_checksum", "checksum"),
        CheckConstraint("checksum ~ '^[0-9a-f]{64}$'", name="checksum"),
        CheckConstraint("size_bytes >= 0 AND page_count >= 0", name="counts"),
    )

    id: Mapped[UUID] = new_id()
    course_id: Mapped[UUID]
    filename: Mapped[str]
    storage_key: Mapped[str]
    checksum: Mapped[str]
    mime_type: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    page_count: Mapped[int | None]
    description: Mapped[str | None]
    description_source: Mapped[SummarySource | None]
    description_by: Mapped[str | None]
    has_text: Mapped[bool | None]
    status: Mapped[DocumentStatus] = mapped_column(server_default=DocumentStatus.UPLOADED.value)
    revision: Mapped[int] = mapped_column(server_default=text("1"))
    created_at: Mapped[datetime] = now()
    updated_at: Mapped[datetime] = now()

    course: Mapped[Course | None] = relationship(
        primaryjoin="foreign(Document.course_id) == Course.id", viewonly=True, lazy="raise"
    )


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

    user_id: Mapped[UUID] = linked_key("users.id")
    document_id: Mapped[UUID] = linked_key("documents.id")
    filename: Mapped[str]
    created_at: Mapped[datetime] = now()
