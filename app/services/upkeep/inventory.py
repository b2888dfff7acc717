"""Rows against objects: what the store has that no row knows, and the other way round.

The sweep and `studybuddy doctor` both judge by this.
"""

import re
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.db.models import Document, Job, Lecture
from app.domain import JobKind, JobState
from app.storage.protocol import is_key

BATCH = 500
OPEN = (JobState.QUEUED, JobState.RUNNING)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OF_LECTURES = ("audio/", "transcripts/")
_OF_DOCUMENTS = ("documents/",)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An object that a row points at; size and checksum (SHA-256, hex) where the row has them."""

    key: str
    size_bytes: int | None = None
    checksum: str | None = None


@dataclass(frozen=True, slots=True)
class StoredAudio(StoredItem):
    """A lecture's audio, and how long the row says that it is."""

    duration_seconds: int | None = None


def is_ours(name: str) -> bool:
    """Tell whether it lies in one of our folders, at any depth, whatever its name."""
    return name.startswith(_OF_LECTURES + _OF_DOCUMENTS)


def lecture_of(name: str) -> UUID | None:
    """Return the lecture whose object this can be, or an attempt's file: the id is in the name."""
    return _id_in(name) if name.startswith(_OF_LECTURES) else None


def document_of(name: str) -> UUID | None:
    """Return the document whose object this can be, or a copy of it."""
    return _id_in(name) if name.startswith(_OF_DOCUMENTS) else None


async def orphans_among(session: AsyncSession, keys: Collection[str]) -> list[str]:
    """Return the names in our folders that no row points at and that no open job may need."""
    ours = [key for key in keys if is_ours(key)]
    lectures = {key: found for key in ours if (found := lecture_of(key))}
    documents = {key: found for key in ours if (found := document_of(key))}
    known = await _known_keys(session, set(lectures.values()), set(documents.values()))
    at_work = await _at_work(session, JobKind.DOWNLOAD_LECTURE, lectures.values())
    at_work |= await _at_work(session, JobKind.COUNT_PAGES, documents.values())
    owners = lectures | documents
    left = [key for key in ours if key not in known and owners.get(key) not in at_work]
    pointed_at = await _pointed_at(session, left)
    return [key for key in left if key not in pointed_at]


async def stored_items(session: AsyncSession) -> AsyncIterator[StoredItem]:
    """Yield every object that some row points at."""
    query = select(
        Lecture.audio_storage_key, Lecture.transcript_storage_key, Lecture.duration_seconds
    )
    async for lecture in await session.stream(query.execution_options(yield_per=BATCH)):
        if lecture.audio_storage_key is not None:
            duration_seconds = lecture.duration_seconds
            yield StoredAudio(lecture.audio_storage_key, duration_seconds=duration_seconds)
        if lecture.transcript_storage_key is not None:
            yield StoredItem(lecture.transcript_storage_key)
    files = select(Document.storage_key, Document.size_bytes, Document.checksum)
    async for file in await session.stream(files.execution_options(yield_per=BATCH)):
        yield StoredItem(file.storage_key, file.size_bytes, file.checksum)


async def is_pointed_at(session: AsyncSession, key: str) -> bool:
    """Whether a row still points at the object."""
    lecture, document = lecture_of(key), document_of(key)
    ids = ({lecture} - {None}, {document} - {None})
    return key in await _known_keys(session, *ids) or bool(await _pointed_at(session, [key]))


async def _known_keys(
    session: AsyncSession, lectures: Collection[UUID | None], documents: Collection[UUID | None]
) -> set[str]:
    audio = select(Lecture.audio_storage_key, Lecture.transcript_storage_key)
    rows = list(await session.execute(audio.where(_among(Lecture.id, lectures))))
    files = select(Document.storage_key).where(_among(Document.id, documents))
    rows += list(await session.execute(files))
    return {key for row in rows for key in row if key}


async def _pointed_at(session: AsyncSession, names: Collection[str]) -> set[str]:
    """Return those that some row points at, whatever its id; reads both tables whole.

    So it is for the few that the ids in their names do not account for.
    """
    keys = [name for name in names if is_key(name)]
    if not keys:
        return set()
    audio, transcript = Lecture.audio_storage_key, Lecture.transcript_storage_key
    query = select(audio, transcript).where(or_(_among(audio, keys), _among(transcript, keys)))
    rows = list(await session.execute(query))
    files = select(Document.storage_key).where(_among(Document.storage_key, keys))
    rows += list(await session.execute(files))
    return {key for row in rows for key in row if key}


async def _at_work(session: AsyncSession, kind: JobKind, subjects: Iterable[UUID]) -> set[UUID]:
    query = select(Job.subject_id).where(
        Job.kind == kind, Job.state.in_(OPEN), _among(Job.subject_id, set(subjects))
    )
    if kind is JobKind.COUNT_PAGES:  # Its document's alone: a copy of a deleted one's may go.
        query = query.where(select(Document.id).where(Document.id == Job.subject_id).exists())
    if kind is JobKind.DOWNLOAD_LECTURE:
        query = query.where(select(Lecture.id).where(Lecture.id == Job.subject_id).exists())
    return set(await session.scalars(query))


def _among(column: InstrumentedAttribute[T], values: Collection[object]) -> ColumnElement[bool]:
    return column == func.any(list(values))


def _id_in(name: str) -> UUID | None:
    match = _UUID.search(name)
    return UUID(match[0]) if match else None
