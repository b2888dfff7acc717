"""Leaving and removing documents (`app.services.kernel.links`)."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import delete, exists, select

from app.auth.viewer import Viewer
from app.db import ledger
from app.db.models import CollectionItem, Document, UserDocument
from app.domain import JobKind
from app.errors import NotFound
from app.services.collections.change import leave_collections
from app.services.kernel.access import require_admin
from app.services.kernel.links import Removal, Shared, leave, require_some
from app.services.kernel.objects import delete_objects
from app.services.kernel.unit_of_work import UnitOfWork, Work
from app.storage.protocol import ObjectStore


async def unlink_documents(
    work: Work, storage: ObjectStore, viewer: Viewer, document_ids: Sequence[UUID]
) -> list[Removal | None]:
    """Remove the viewer's links; the last one out removes the document.

    The answer has one for each id, in their order: None where the viewer has no such document.
    """
    require_some(document_ids)
    async with work.begin() as unit:
        own = exists().where(
            UserDocument.document_id == Document.id, UserDocument.user_id == viewer.id
        )
        query = select(Document).where(Document.id.in_(document_ids), own).order_by(Document.id)
        found = await unit.session.scalars(query.with_for_update())
        locked = list(found)
        ids = [document.id for document in locked]
        await leave_collections(unit.session, CollectionItem.document_id, ids, viewer)
        removals, keys = await leave(unit, viewer, SHARED, locked)
    await delete_objects(storage, keys)
    return [removals.get(document_id) for document_id in document_ids]


async def delete_document(
    work: Work, storage: ObjectStore, viewer: Viewer, document_id: UUID
) -> UUID:
    """Remove the document for all users at once; admins only."""
    require_admin(viewer)
    async with work.begin() as unit:
        query = select(Document).where(Document.id == document_id).with_for_update()
        document = await unit.session.scalar(query)
        if document is None:
            raise NotFound("document", document_id)
        await unit.wake_document(document.id)
        await leave_collections(unit.session, CollectionItem.document_id, [document.id])
        keys = await remove_documents(unit, [document])
        removed = document.id
    await delete_objects(storage, keys)
    return removed


async def remove_documents(unit: UnitOfWork, documents: Sequence[Document]) -> list[str]:
    """Delete the locked rows and their jobs; return the keys of their objects, to delete after."""
    if not documents:
        return []
    ids = [document.id for document in documents]
    await ledger.close_jobs(unit.session, JobKind.COUNT_PAGES, ids)
    await unit.session.execute(delete(Document).where(Document.id.in_(ids)))
    return [document.storage_key for document in documents]


SHARED = Shared("document", UserDocument, UserDocument.document_id, remove_documents)
