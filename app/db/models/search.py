"""What search looks through.  The vectors beside it are `app.db.vectors`'."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Float, Index, Text
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from app.db.models.base import Base, linked_key


class Indexed:
    """A row whose text search looks through: when it was indexed, with which embedder, and how.

    ``text_config`` is the configuration of its full-text vectors, ``words`` are what a misspelled
    query is compared with.  All are null until it is indexed, ``embedder`` also where there was
    none.
    """

    indexed_at: Mapped[datetime | None]
    embedder: Mapped[str | None]
    text_config: Mapped[str | None]
    chunk_count: Mapped[int | None]
    words: Mapped[list[str] | None] = mapped_column(ARRAY(Text), deferred=True)


def _search_index(table: str) -> Index:
    return Index(
        f"idx_{table}_search",
        "search",
        postgresql_using="gin",
        postgresql_with={"fastupdate": "off"},
    )


class TranscriptionChunk(Base):
    """A window of a transcription: whole sentences, one of them the neighbour's too.

    Times are seconds of the audio, positions code points of the whole text.  ``sentences`` are
    ``[start, seconds]`` each: where it begins in ``text``, and when.  ``sentence_vectors`` are
    theirs (`app.services.search.sentences`), to find the best one of a chunk that was found.
    """

    __tablename__ = "transcription_chunks"
    __table_args__ = (
        _search_index(__tablename__),
        CheckConstraint("0 <= start_time AND start_time <= end_time", name="times"),
        CheckConstraint("0 <= start_char_pos AND start_char_pos <= end_char_pos", name="place"),
    )

    transcription_id: Mapped[UUID] = linked_key("transcriptions.id")
    chunk_index: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    start_time: Mapped[float] = mapped_column(Float(53))
    end_time: Mapped[float] = mapped_column(Float(53))
    start_char_pos: Mapped[int]
    end_char_pos: Mapped[int]
    confidence: Mapped[float | None] = mapped_column(Float(53))
    keywords: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=sql("'{}'"))
    topic_summary: Mapped[str | None]
    sentences: Mapped[list[Any]] = mapped_column(JSONB, server_default=sql("'[]'"))
    sentence_vectors: Mapped[bytes | None] = mapped_column(deferred=True)
    search: Mapped[str] = mapped_column(TSVECTOR, deferred=True)


class DocumentPage(Base):
    """A chunk of a page's text, of at most 200 words; ``page`` is from 1."""

    __tablename__ = "document_pages"
    __table_args__ = (
        _search_index(__tablename__),
        CheckConstraint("page >= 1", name="page"),
    )

    document_id: Mapped[UUID] = linked_key("documents.id")
    page: Mapped[int] = mapped_column(primary_key=True)
    chunk_index: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    search: Mapped[str] = mapped_column(TSVECTOR, deferred=True)
