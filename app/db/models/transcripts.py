"""Transcriptions of lectures, and what has been heard of those that are under way."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column, query_expression

from app.db.models.base import Base, linked_key, new_id, now
from app.db.models.search import Indexed
from app.domain import (
    SummarySource,
    TranscriptionFailure,
    TranscriptionSource,
    TranscriptionStatus,
)


class Transcription(Indexed, Base):
    """A lecture's words: one row for each model, each language that is forced, and the captions.

    ``progress`` is in percent.  ``duration_seconds`` is the audio's, known once it was opened;
    ``language`` is then known too, unless nobody speaks.  The text is in the payload in storage.
    ``summary_by`` is what its model is called and the version of the prompts, null for an extract.
    """

    __tablename__ = "transcriptions"
    __table_args__ = (
        Index(
            "uq_transcriptions_of_a_kind",
            "lecture_id",
            "source",
            text("coalesce(model_name, '')"),
            text("coalesce(forced_language, '')"),
            unique=True,
        ),
        Index("idx_transcriptions_requested_by", "requested_by"),
        CheckConstraint("(status = 'failed') = (failure IS NOT NULL)", name="failure"),
        CheckConstraint("(status = 'completed') = (storage_key IS NOT NULL)", name="payload"),
        CheckConstraint("is_language_forced = (forced_language IS NOT NULL)", name="forced"),
        CheckConstraint("progress BETWEEN 0 AND 100", name="progress"),
        CheckConstraint("(summary IS NULL) = (summary_source IS NULL)", name="summary"),
        {"postgresql_with": {"fillfactor": 80}},
    )

    id: Mapped[UUID] = new_id()
    lecture_id: Mapped[UUID] = mapped_column(ForeignKey("lectures.id", ondelete="CASCADE"))
    requested_by: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    source: Mapped[TranscriptionSource]
    model_name: Mapped[str | None]
    model_version: Mapped[str | None]
    forced_language: Mapped[str | None]
    is_language_forced: Mapped[bool] = mapped_column(server_default=text("false"))
    language: Mapped[str | None]
    status: Mapped[TranscriptionStatus] = mapped_column(
        server_default=TranscriptionStatus.PENDING.value
    )
    failure: Mapped[TranscriptionFailure | None]
    error_message: Mapped[str | None]
    warnings: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    avg_confidence: Mapped[float | None] = mapped_column(Float(53))
    processing_seconds: Mapped[float | None] = mapped_column(Float(53))
    progress: Mapped[float | None] = mapped_column(Float(53))
    duration_seconds: Mapped[float | None] = mapped_column(Float(53))
    storage_key: Mapped[str | None]
    text_length: Mapped[int | None]
    summary: Mapped[str | None]
    summary_source: Mapped[SummarySource | None]
    summary_by: Mapped[str | None]
    revision: Mapped[int] = mapped_column(server_default=text("1"))
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = now()
    updated_at: Mapped[datetime] = now()

    # No column: whether it is the one that `lecture.transcription` answers.  Null where not asked.
    is_current: Mapped[bool | None] = query_expression()


class TranscriptionWindow(Base):
    """A window that was heard (`app.speech.transcriber.Window`), until the transcription ends."""

    __tablename__ = "transcription_windows"

    transcription_id: Mapped[UUID] = linked_key("transcriptions.id")
    number: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[dict[str, Any]] = mapped_column(JSONB)
