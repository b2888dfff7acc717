"""Leaving and removing items: the last link out takes the row and its objects with it.

Rows go first, in one transaction under the item's row lock; objects follow the commit, and the
sweep collects those that a crash in between leaves.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import delete, exists, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.viewer import Viewer
from app.db import ledger
from app.db.models import Document, Lecture, UserDocument, UserLecture
from app.domain import JobKind
from app.errors import NotFound
from app.services.attempt_files import kept_keys
from app.services.lecture_requests import stop_job
from app.services.lectures import real_id, require_admin
from app.services.objects import delete_objects
from app.services.storage_keys import audio_key
from app.services.unit_of_work import UnitOfWork, Work
from app.storage.protocol import ObjectStore


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of the item: its id, and whether the last link went."""

    item_id: UUID
    deleted: bool


async def unlink_lecture(
    work: Work, storage: ObjectStore, scratch: ObjectStore, viewer: Viewer, lecture_id: UUID
) -> Removal:
    """Remove the viewer's link; the last one out stops the download and removes everything."""
    keys: list[str] = []
    async with work.begin() as unit:
        lecture = await _locked_lecture(unit.session, lecture_id)
        link = delete(UserLecture).where(
            UserLecture.lecture_id == lecture.id, UserLecture.user_id == viewer.id
        )
        if await unit.session.scalar(link.returning(UserLecture.user_id)) is None:
            raise NotFound("lecture", lecture_id)
        others = exists().where(UserLecture.lecture_id == lecture.id)
        last = not await unit.session.scalar(select(others))
        if last:
            keys = await remove_lecture(unit, lecture)
        unit.wake("lecture", lecture.id, viewer.id)
        removal = Removal(lecture.id, last)
    await delete_objects(storage, keys)
    if last:
        await delete_objects(scratch, kept_keys(removal.item_id))
    return removal


async def delete_lecture(
    work: Work, storage: ObjectStore, scratch: ObjectStore, viewer: Viewer, lecture_id: UUID
) -> UUID:
    """Remove the lecture for all users at once; admins only."""
    require_admin(viewer)
    async with work.begin() as unit:
        lecture = await _locked_lecture(unit.session, lecture_id)
        await unit.wake_lecture(lecture.id)
        keys = await remove_lecture(unit, lecture)
        removed = lecture.id
    await delete_objects(storage, keys)
    await delete_objects(scratch, kept_keys(removed))
    return removed


async def unlink_document(
    work: Work, storage: ObjectStore, viewer: Viewer, document_id: UUID
) -> Removal:
    """Remove the viewer's link; the last one out removes the document."""
    keys: list[str] = []
    async with work.begin() as unit:
        document = await _locked_document(unit.session, document_id)
        link = delete(UserDocument).where(
            UserDocument.document_id == document.id, UserDocument.user_id == viewer.id
        )
        if await unit.session.scalar(link.returning(UserDocument.user_id)) is None:
            raise NotFound("document", document_id)
        others = exists().where(UserDocument.document_id == document.id)
        last = not await unit.session.scalar(select(others))
        if last:
            keys = await remove_document(unit, document)
        unit.wake("document", document.id, viewer.id)
        removal = Removal(document.id, last)
    await delete_objects(storage, keys)
    return removal


async def delete_document(
    work: Work, storage: ObjectStore, viewer: Viewer, document_id: UUID
) -> UUID:
    """Remove the document for all users at once; admins only."""
    require_admin(viewer)
    async with work.begin() as unit:
        document = await _locked_document(unit.session, document_id)
        await unit.wake_document(document.id)
        keys = await remove_document(unit, document)
        removed = document.id
    await delete_objects(storage, keys)
    return removed


async def remove_lecture(unit: UnitOfWork, lecture: Lecture) -> list[str]:
    """Delete the locked row and its job; return the keys of its objects, to delete afterwards."""
    await stop_job(unit, lecture.id)
    await unit.session.execute(delete(Lecture).where(Lecture.id == lecture.id))
    keys = {audio_key(lecture.id), lecture.audio_storage_key, lecture.transcript_storage_key}
    return [key for key in keys if key is not None]


async def remove_document(unit: UnitOfWork, document: Document) -> list[str]:
    """Delete the locked row and its job; return the keys of its objects, to delete afterwards."""
    await ledger.close_job(unit.session, JobKind.COUNT_PAGES, document.id)
    await unit.session.execute(delete(Document).where(Document.id == document.id))
    return [document.storage_key]


async def _locked_lecture(session: AsyncSession, lecture_id: UUID) -> Lecture:
    query = select(Lecture).where(Lecture.id == real_id(lecture_id)).with_for_update()
    # Twice: a lecture that is merged away while this waits for its lock goes by another id now.
    lecture = await session.scalar(query) or await session.scalar(query)
    if lecture is None:
        raise NotFound("lecture", lecture_id)
    return lecture


async def _locked_document(session: AsyncSession, document_id: UUID) -> Document:
    query = select(Document).where(Document.id == document_id).with_for_update()
    document = await session.scalar(query)
    if document is None:
        raise NotFound("document", document_id)
    return document
