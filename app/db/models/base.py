"""What every table shares: names of constraints, types, ids and times from the database."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import DateTime, Enum, ForeignKey, Integer, MetaData, Text, func
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.domain import (
    DocumentStatus,
    DownloadStage,
    JobState,
    LectureFailure,
    LectureSource,
    LectureStatus,
    SummarySource,
    TopicReview,
    TranscriptionFailure,
    TranscriptionSource,
    TranscriptionStatus,
)

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


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
        LectureSource: _enum(LectureSource, "lecture_source"),
        LectureStatus: _enum(LectureStatus, "lecture_status"),
        DocumentStatus: _enum(DocumentStatus, "document_status"),
        LectureFailure: _enum(LectureFailure, "lecture_failure"),
        DownloadStage: _enum(DownloadStage, "download_stage"),
        JobState: _enum(JobState, "job_state"),
        TopicReview: _enum(TopicReview, "topic_review"),
        SummarySource: _enum(SummarySource, "summary_source"),
        TranscriptionFailure: _enum(TranscriptionFailure, "transcription_failure"),
        TranscriptionSource: _enum(TranscriptionSource, "transcription_source"),
        TranscriptionStatus: _enum(TranscriptionStatus, "transcription_status"),
    }


def new_id() -> Mapped[UUID]:
    """Return the column of an id that the database gives."""
    return mapped_column(primary_key=True, server_default=func.gen_random_uuid())


def now() -> Mapped[datetime]:
    """Return the column of a time that is the row's first, unless given."""
    return mapped_column(server_default=func.now())


def linked_key(table: str, **options: Any) -> Mapped[UUID]:
    """Return a part of the primary key that goes with the row it names."""
    return mapped_column(ForeignKey(table, ondelete="CASCADE"), primary_key=True, **options)
