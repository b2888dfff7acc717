"""The tables, as SQLAlchemy maps them.  `alembic/` makes them; triggers live there alone."""

from app.db.models.account import User
from app.db.models.base import Base
from app.db.models.collections import Collection, CollectionItem
from app.db.models.courses import Course
from app.db.models.documents import Document, UserDocument
from app.db.models.jobs import NOBODY, Job
from app.db.models.lectures import Lecture, LectureAlias, UserLecture
from app.db.models.search import DocumentPage, TranscriptionChunk
from app.db.models.topics import Topic, TranscriptionTopic
from app.db.models.transcripts import Transcription, TranscriptionWindow

__all__ = [
    "NOBODY",
    "Base",
    "Collection",
    "CollectionItem",
    "Course",
    "Document",
    "DocumentPage",
    "Job",
    "Lecture",
    "LectureAlias",
    "Topic",
    "Transcription",
    "TranscriptionChunk",
    "TranscriptionTopic",
    "TranscriptionWindow",
    "User",
    "UserDocument",
    "UserLecture",
]
