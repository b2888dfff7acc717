"""Collections: a user's own lists of lectures and documents."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.models.base import Base, new_id, now


class Collection(Base):
    """A list of one user's.  Whoever changes its items holds the lock of its row."""

    __tablename__ = "collections"
    __table_args__ = (
        Index("idx_collections_user_id_created_at", "user_id", text("created_at DESC"), "id"),
    )

    id: Mapped[UUID] = new_id()
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    name: Mapped[str]
    description: Mapped[str | None]
    created_at: Mapped[datetime] = now()
    updated_at: Mapped[datetime] = now()


class CollectionItem(Base):
    """A lecture or a document in a collection; positions are 0 to n - 1."""

    __tablename__ = "collection_items"
    __table_args__ = (
        UniqueConstraint("collection_id", "position", deferrable=True),
        UniqueConstraint("lecture_id", "collection_id"),
        UniqueConstraint("document_id", "collection_id"),
        CheckConstraint("num_nonnulls(lecture_id, document_id) = 1", name="subject"),
        CheckConstraint("position >= 0", name="position"),
    )

    id: Mapped[UUID] = new_id()
    collection_id: Mapped[UUID] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    lecture_id: Mapped[UUID | None] = mapped_column(ForeignKey("lectures.id", ondelete="CASCADE"))
    document_id: Mapped[UUID | None] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"))
    position: Mapped[int]
    created_at: Mapped[datetime] = now()
