"""Rows against objects: what the store has that no row knows, and the other way round.

The sweep and `studybuddy doctor` both judge by this.
"""

import re
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.db.models import Document, Job, Lecture
from app.domain import JobKind, JobState

BATCH = 500
OPEN = (JobState.QUEUED, JobState.RUNNING)
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_LECTURE_KEY = re.compile(rf"(?:audio|transcripts)/({_UUID})(?:_source\.[^/]*)?\.[^/]+")
_DOCUMENT_KEY = re.compile(rf"documents/({_UUID})\.[^/]+")


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An object that a row points at; size and checksum (SHA-256, hex) where the row has them."""

    key: str
    size_bytes: int | None = None
    checksum: str | None = None


def lecture_of(key: str) -> UUID | None:
    """Return the lecture whose object this key can be, or None."""
    match = _LECTURE_KEY.fullmatch(key)
    return UUID(match[1]) if match else None


def document_of(key: str) -> UUID | None:
    """Return the document whose object this key can be, or None."""
    match = _DOCUMENT_KEY.fullmatch(key)
    return UUID(match[1]) if match else None


async def orphans_among(session: AsyncSession, keys: Collection[str]) -> list[str]:
    """Return the keys that no row points at and that no open job may need.

    A key of a form that is none of ours is nobody's orphan.
    """
    lectures = {key: found for key in keys if (found := lecture_of(key))}
    documents = {key: found for key in keys if (found := document_of(key))}
    known = await _known_keys(session, set(lectures.values()), set(documents.values()))
    at_work = await _at_work(session, JobKind.DOWNLOAD_LECTURE, lectures.values())
    at_work |= await _at_work(session, JobKind.COUNT_PAGES, documents.values())
    owners = lectures | documents
    return [key for key in owners if key not in known and owners[key] not in at_work]


async def stored_items(session: AsyncSession) -> AsyncIterator[StoredItem]:
    """Yield every object that some row points at."""
    query = select(Lecture.audio_storage_key, Lecture.transcript_storage_key)
    async for keys in await session.stream(query.execution_options(yield_per=BATCH)):
        for key in keys:
            if key is not None:
                yield StoredItem(key)
    files = select(Document.storage_key, Document.size_bytes, Document.checksum)
    async for file in await session.stream(files.execution_options(yield_per=BATCH)):
        yield StoredItem(file.storage_key, file.size_bytes, file.checksum)


async def is_pointed_at(session: AsyncSession, key: str) -> bool:
    """Whether a row still points at the object."""
    lecture, document = lecture_of(key), document_of(key)
    ids = ({lecture} - {None}, {document} - {None})
    return key in await _known_keys(session, *ids)


async def _known_keys(
    session: AsyncSession, lectures: Collection[UUID | None], documents: Collection[UUID | None]
) -> set[str]:
    audio = select(Lecture.audio_storage_key, Lecture.transcript_storage_key)
    rows = list(await session.execute(audio.where(_among(Lecture.id, lectures))))
    files = select(Document.storage_key).where(_among(Document.id, documents))
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


def _among(
    column: InstrumentedAttribute[UUID], ids: Collection[UUID | None]
) -> ColumnElement[bool]:
    return column == func.any(list(ids))
