"""Leaving and removing items: the last link out takes the row and its objects with it.

Rows go first, in one transaction under the item's row lock; objects follow the commit, and the
sweep collects those that a crash in between leaves.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import delete, exists, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.auth.viewer import Viewer
from app.db import ledger
from app.db.models import Document, Lecture, UserDocument, UserLecture
from app.domain import FieldErrorCode, JobKind
from app.errors import FieldProblem, InvalidInput, NotFound
from app.services.kernel.keyset import MAX_PAGE_SIZE
from app.services.kernel.objects import delete_objects
from app.services.kernel.storage_keys import audio_key
from app.services.kernel.unit_of_work import UnitOfWork, Work
from app.services.lectures.attempt_files import kept_keys
from app.services.lectures.read import linked, real_id, require_admin, select_real
from app.storage.protocol import ObjectStore


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of the item: its id, and whether the last link went."""

    item_id: UUID
    deleted: bool


async def unlink_lecture(
    work: Work, storage: ObjectStore, scratch: ObjectStore, viewer: Viewer, lecture_id: UUID
) -> Removal:
    """Remove the viewer's link as `unlink_lectures` does, or raise `NotFound`."""
    (removal,) = await unlink_lectures(work, storage, scratch, viewer, [lecture_id])
    if removal is None:
        raise NotFound("lecture", lecture_id)
    return removal


async def unlink_lectures(
    work: Work,
    storage: ObjectStore,
    scratch: ObjectStore,
    viewer: Viewer,
    lecture_ids: Sequence[UUID],
) -> list[Removal | None]:
    """Remove the viewer's links; the last one out stops a download and removes everything.

    The answer has one for each id, in their order: None where the viewer has no such lecture.
    """
    _require_some(lecture_ids)
    removals = await _unlink_lectures(work, storage, scratch, viewer, set(lecture_ids))
    # Twice: a lecture that is merged away while this waits for its lock goes by another id now.
    if missing := set(lecture_ids) - removals.keys():
        removals |= await _unlink_lectures(work, storage, scratch, viewer, missing)
    return [removals.get(lecture_id) for lecture_id in lecture_ids]


async def _unlink_lectures(
    work: Work, storage: ObjectStore, scratch: ObjectStore, viewer: Viewer, ids: set[UUID]
) -> dict[UUID, Removal]:
    """Return what became of those that the viewer was linked to, by the id that was asked for."""
    async with work.begin() as unit:
        # In the order of their ids, so that two who unlink the same ones never wait in a ring.
        query = select_real(ids).where(linked(viewer)).order_by(Lecture.id)
        found = await unit.session.execute(query.with_for_update(of=Lecture))
        asked = {row[0]: row[1] for row in found}
        links = UserLecture, UserLecture.lecture_id
        locked = {lecture.id: lecture for lecture in asked.values()}
        left, empty = await _leave(unit.session, viewer, Lecture.id, *links, locked)
        keys = await remove_lectures(unit, [locked[id_] for id_ in empty])
        for lecture_id in left:
            unit.wake("lecture", lecture_id, viewer.id)
    await delete_objects(storage, keys)
    await delete_objects(scratch, [key for id_ in empty for key in kept_keys(id_)])
    return {
        id_: Removal(lecture.id, lecture.id in empty)
        for id_, lecture in asked.items()
        if lecture.id in left
    }


async def delete_lecture(
    work: Work, storage: ObjectStore, scratch: ObjectStore, viewer: Viewer, lecture_id: UUID
) -> UUID:
    """Remove the lecture for all users at once; admins only."""
    require_admin(viewer)
    async with work.begin() as unit:
        lecture = await _locked_lecture(unit.session, lecture_id)
        await unit.wake_lecture(lecture.id)
        keys = await remove_lectures(unit, [lecture])
        removed = lecture.id
    await delete_objects(storage, keys)
    await delete_objects(scratch, kept_keys(removed))
    return removed


async def unlink_document(
    work: Work, storage: ObjectStore, viewer: Viewer, document_id: UUID
) -> Removal:
    """Remove the viewer's link as `unlink_documents` does, or raise `NotFound`."""
    (removal,) = await unlink_documents(work, storage, viewer, [document_id])
    if removal is None:
        raise NotFound("document", document_id)
    return removal


async def unlink_documents(
    work: Work, storage: ObjectStore, viewer: Viewer, document_ids: Sequence[UUID]
) -> list[Removal | None]:
    """Remove the viewer's links; the last one out removes the document.

    The answer has one for each id, in their order: None where the viewer has no such document.
    """
    _require_some(document_ids)
    async with work.begin() as unit:
        own = exists().where(
            UserDocument.document_id == Document.id, UserDocument.user_id == viewer.id
        )
        query = select(Document).where(Document.id.in_(document_ids), own).order_by(Document.id)
        found = await unit.session.scalars(query.with_for_update())
        links = UserDocument, UserDocument.document_id
        locked = {document.id: document for document in found}
        left, empty = await _leave(unit.session, viewer, Document.id, *links, locked)
        keys = await remove_documents(unit, [locked[id_] for id_ in empty])
        for document_id in left:
            unit.wake("document", document_id, viewer.id)
    await delete_objects(storage, keys)
    return [Removal(id_, id_ in empty) if id_ in left else None for id_ in document_ids]


async def delete_document(
    work: Work, storage: ObjectStore, viewer: Viewer, document_id: UUID
) -> UUID:
    """Remove the document for all users at once; admins only."""
    require_admin(viewer)
    async with work.begin() as unit:
        document = await _locked_document(unit.session, document_id)
        await unit.wake_document(document.id)
        keys = await remove_documents(unit, [document])
        removed = document.id
    await delete_objects(storage, keys)
    return removed


async def remove_lectures(unit: UnitOfWork, lectures: Sequence[Lecture]) -> list[str]:
    """Delete the locked rows and their jobs; return the keys of their objects, to delete after."""
    if not lectures:
        return []
    ids = [lecture.id for lecture in lectures]
    for job_id in await ledger.close_jobs(unit.session, JobKind.DOWNLOAD_LECTURE, ids):
        unit.wake("job", job_id)
    await unit.session.execute(delete(Lecture).where(Lecture.id.in_(ids)))
    keys = {
        key
        for each in lectures
        for key in (audio_key(each.id), each.audio_storage_key, each.transcript_storage_key)
    }
    return [key for key in keys if key is not None]


async def remove_documents(unit: UnitOfWork, documents: Sequence[Document]) -> list[str]:
    """Delete the locked rows and their jobs; return the keys of their objects, to delete after."""
    if not documents:
        return []
    ids = [document.id for document in documents]
    await ledger.close_jobs(unit.session, JobKind.COUNT_PAGES, ids)
    await unit.session.execute(delete(Document).where(Document.id.in_(ids)))
    return [document.storage_key for document in documents]


def _require_some(ids: Sequence[UUID]) -> None:
    if not ids:
        raise InvalidInput(FieldProblem(("ids",), "Name one at least.", FieldErrorCode.REQUIRED))
    if len(ids) > MAX_PAGE_SIZE:
        message = f"Name {MAX_PAGE_SIZE} at most."
        raise InvalidInput(FieldProblem(("ids",), message, FieldErrorCode.TOO_MANY))


async def _leave(
    session: AsyncSession,
    viewer: Viewer,
    item: InstrumentedAttribute[UUID],
    link: type[UserLecture | UserDocument],
    linked_item: InstrumentedAttribute[UUID],
    ids: Collection[UUID],
) -> tuple[set[UUID], set[UUID]]:
    """Delete the viewer's links to the locked items: those that had one, and that have none now."""
    own = delete(link).where(linked_item.in_(ids), link.user_id == viewer.id)
    left = set(await session.scalars(own.returning(linked_item)))
    still = select(item).where(item.in_(left), exists().where(linked_item == item))
    return left, left - set(await session.scalars(still))


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
