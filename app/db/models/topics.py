"""Topics, and the transcriptions that are about them."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Float, ForeignKey, Index, UniqueConstraint
from sqlalchemy.dialects.postgresql import ARRAY, REAL
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db.models.base import Base, linked_key, new_id, now
from app.domain import TopicReview


class Topic(Base):
    """What one user learns about.  ``folded_name`` is the name without case, as Unicode has it.

    ``embedding`` is its vector by ``embedding_model``; null until it was needed.
    """

    __tablename__ = "topics"
    __table_args__ = (
        UniqueConstraint("user_id", "folded_name"),
        CheckConstraint("(embedding IS NULL) = (embedding_model IS NULL)", name="embedding"),
    )

    id: Mapped[UUID] = new_id()
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    name: Mapped[str]
    folded_name: Mapped[str]
    description: Mapped[str | None]
    embedding: Mapped[list[float] | None] = mapped_column(ARRAY(REAL))
    embedding_model: Mapped[str | None]
    created_at: Mapped[datetime] = now()
    updated_at: Mapped[datetime] = now()


class TranscriptionTopic(Base):
    """That a transcription is about a topic; ``assigned_by`` is null where a model says so."""

    __tablename__ = "transcription_topics"
    __table_args__ = (
        Index("idx_transcription_topics_topic_id", "topic_id"),
        Index("idx_transcription_topics_assigned_by", "assigned_by"),
        CheckConstraint("(assigned_by IS NULL) = (ai_confidence IS NOT NULL)", name="author"),
        CheckConstraint("ai_confidence BETWEEN 0 AND 1", name="confidence"),
    )

    transcription_id: Mapped[UUID] = linked_key("transcriptions.id")
    topic_id: Mapped[UUID] = linked_key("topics.id")
    ai_confidence: Mapped[float | None] = mapped_column(Float(53))
    ai_reasoning: Mapped[str | None]
    assigned_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    review: Mapped[TopicReview] = mapped_column(server_default=TopicReview.UNREVIEWED.value)
    created_at: Mapped[datetime] = now()

    topic: Mapped[Topic] = relationship(lazy="raise", viewonly=True)
