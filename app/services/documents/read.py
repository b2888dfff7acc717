"""Reading documents: one, a user's, and who may stream the file."""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import contains_eager

from app.auth.viewer import Viewer
from app.db.models import CollectionItem, Course, Document, UserDocument
from app.services.collections.read import held_in
from app.services.courses.read import visible_to
from app.services.kernel.file_grants import FileGrant, Reader
from app.services.kernel.keyset import Linked, NewestFirst, Page, read_page
from app.services.kernel.live import Feed, Versions


@dataclass(frozen=True, slots=True)
class OwnDocument:
    """A document as one viewer has it: under the filename of that viewer's last upload."""

    document: Document
    filename: str


def _as_seen_by(viewer: Viewer) -> Select[Document, str | None]:
    own = and_(UserDocument.document_id == Document.id, UserDocument.user_id == viewer.id)
    course = and_(Course.id == Document.course_id, visible_to(viewer))
    return (
        select(Document, UserDocument.filename)
        .outerjoin(UserDocument, own)
        .outerjoin(Course, course)
        .options(contains_eager(Document.course))
    )


async def get_document(
    session: AsyncSession, viewer: Viewer, document_id: UUID
) -> OwnDocument | None:
    """Return the document, or None unless the viewer is linked to it or an admin."""
    return (await get_documents(session, viewer, [document_id])).get(document_id)


async def get_documents(
    session: AsyncSession, viewer: Viewer, ids: Collection[UUID]
) -> dict[UUID, OwnDocument]:
    """Return those of the documents that the viewer is linked to, an admin all of them, by id."""
    query = _as_seen_by(viewer).where(Document.id.in_(ids))
    if not viewer.is_admin:
        query = query.where(UserDocument.user_id.is_not(None))
    rows = await session.execute(query)
    return {row.id: OwnDocument(row, filename or row.filename) for row, filename in rows}


async def get_file_grant(
    session: AsyncSession, reader: Reader, document_id: UUID, admin_ids: frozenset[UUID]
) -> FileGrant | None:
    """Return the right to read the document's file, or None as `get_document` would."""
    reader_id, is_admin = reader, False
    if isinstance(reader, Viewer):
        reader_id, is_admin = reader.id, reader.is_admin
    own = and_(UserDocument.document_id == Document.id, UserDocument.user_id == reader_id)
    query = select(Document, UserDocument.filename).outerjoin(UserDocument, own)
    query = query.where(Document.id == document_id)
    if not is_admin and reader_id not in admin_ids:
        query = query.where(UserDocument.user_id.is_not(None))
    row = (await session.execute(query)).one_or_none()
    return None if row is None else _grant(row[0], row[1] or row[0].filename)


def _grant(document: Document, filename: str) -> FileGrant:
    return FileGrant(
        storage_key=document.storage_key,
        filename=filename,
        mime_type=document.mime_type,
        size_bytes=document.size_bytes,
        etag_seed=f"{document.id} {document.checksum}",
        modified_at=document.created_at,
    )


@dataclass(frozen=True, slots=True)
class DocumentFilter:
    """Which documents of a list are wanted; None is all."""

    course_id: UUID | None = None
    collection_id: UUID | None = None

    def conditions(self, viewer: Viewer) -> list[ColumnElement[bool]]:
        """Return what the rows must be."""
        conditions: list[ColumnElement[bool]] = []
        if self.course_id is not None:
            conditions.append(Document.course_id == self.course_id)
        if self.collection_id is not None:
            held = held_in(viewer, self.collection_id, CollectionItem.document_id)
            conditions.append(Document.id.in_(held))
        return conditions


async def list_documents(
    session: AsyncSession,
    viewer: Viewer,
    wanted: DocumentFilter,
    first: int | None,
    after: str | None,
) -> Page[Linked[OwnDocument]]:
    """Return a page of the viewer's documents by when they were linked, newest first."""
    course = and_(Course.id == Document.course_id, visible_to(viewer))
    query = (
        select(Document, UserDocument.filename)
        .join(UserDocument, UserDocument.document_id == Document.id)
        .outerjoin(Course, course)
        .options(contains_eager(Document.course))
        .where(UserDocument.user_id == viewer.id, *wanted.conditions(viewer))
    )
    order = NewestFirst(UserDocument.created_at, UserDocument.document_id)
    return await read_page(
        session, query, order, lambda row: Linked(OwnDocument(row[0], row[1]), row[2]), first, after
    )


async def count_documents(session: AsyncSession, viewer: Viewer, wanted: DocumentFilter) -> int:
    """Count the viewer's whole list."""
    query = select(func.count()).select_from(UserDocument).where(UserDocument.user_id == viewer.id)
    if conditions := wanted.conditions(viewer):
        query = query.join(Document).where(*conditions)
    return await session.scalar(query) or 0


async def _versions(
    session: AsyncSession, viewer: Viewer, ids: Collection[UUID] | None
) -> Versions:
    query = (
        select(Document.id, Document.updated_at, UserDocument.filename)
        .join(UserDocument, UserDocument.document_id == Document.id)
        .where(UserDocument.user_id == viewer.id)
    )
    if ids is not None:
        query = query.where(Document.id.in_(ids))
    return {row.id: (row.updated_at, row.filename) for row in await session.execute(query)}


def _version(own: OwnDocument) -> object:
    return own.document.updated_at, own.filename


DOCUMENTS = Feed("document", _versions, get_documents, _version)
"""What `live.follow` tells of documents."""
