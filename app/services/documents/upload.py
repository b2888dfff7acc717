"""Taking in PDFs: stored as they arrive, deduplicated by the database's own constraint."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID, uuid4

import structlog
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.viewer import Viewer
from app.db import ledger
from app.db.models import Document, UserDocument
from app.domain import FieldErrorCode, JobKind
from app.errors import InvalidInput, NotFound, ObjectNotFound, RateLimited, StorageError
from app.services.documents.read import OwnDocument, get_document
from app.services.kernel.incoming import IncomingFile, checked_filename
from app.services.kernel.objects import delete_objects
from app.services.kernel.quotas import Allowance, Quota
from app.services.kernel.storage_keys import document_key
from app.services.kernel.unit_of_work import UnitOfWork, Work
from app.services.kernel.users import ensure_user
from app.storage.protocol import ObjectStore, StoredFileMeta

log = structlog.get_logger()

PDF = "application/pdf"
_PDF_TYPES = frozenset({PDF, "application/x-pdf", "application/octet-stream", ""})
"""What machines without a PDF program declare, too; the name and the bytes decide."""

_PDF_HEADER = b"%PDF-"


@dataclass(frozen=True, slots=True)
class UploadedDocument:
    """The document that the viewer is now linked to; ``created`` where these bytes were new."""

    document: OwnDocument
    created: bool


async def upload_document(
    work: Work,
    storage: ObjectStore,
    viewer: Viewer,
    course_id: UUID,
    file: IncomingFile,
    allowance: Allowance,
) -> UploadedDocument:
    """Store the PDF and link the viewer to it; the same bytes in the course are kept once.

    Over a quota it is refused: before a byte is read where that is known then, and else with
    nothing kept.

    The object comes first and the row second, so a row never points at nothing.  A copy is deleted
    again, unless the document has lost its object, which it then becomes.  After a failed
    transaction the object stays for the sweep, since a commit whose answer was lost may have kept
    the row.
    """
    filename = _checked_filename(file)
    await allowance.require(Quota.UPLOADS)
    async with work.sessions() as session:
        chunks = await allowance.require_room(session, _pdf_only(file.chunks))
    document_id = uuid4()
    stored = await storage.store_file(document_key(document_id), chunks)
    values = {"id": document_id, "course_id": course_id, "filename": filename}
    try:
        uploaded = await _record(work, viewer, values, stored, allowance)
    except (InvalidInput, RateLimited):  # over a quota: known before the commit
        await delete_objects(storage, [stored.key])
        raise
    if not uploaded.created:
        try:
            await _restore(work, storage, viewer, uploaded.document.document, stored)
        finally:
            await delete_objects(storage, [stored.key])
    return uploaded


async def _record(
    work: Work,
    viewer: Viewer,
    values: dict[str, object],
    stored: StoredFileMeta,
    allowance: Allowance,
) -> UploadedDocument:
    """Make or find the row and link the viewer, in one transaction."""
    async with work.begin() as unit:
        await ensure_user(unit.session, viewer)
        found_id, created = await _insert_or_find(unit.session, values, stored)
        await _link(unit.session, viewer, found_id, str(values["filename"]))
        await allowance.require_within(unit.session)
        await allowance.spend(Quota.UPLOADS)
        if created:
            await _count_pages(unit, found_id, viewer)
        await unit.wake_document(found_id)
        # Read here and not after the commit, when it may be gone again.
        document = await get_document(unit.session, viewer, found_id)
        if document is None:
            raise NotFound("document", found_id)
        return UploadedDocument(document, created)


async def _insert_or_find(
    session: AsyncSession, values: dict[str, object], stored: StoredFileMeta
) -> tuple[UUID, bool]:
    """Insert the document, or lock the one that has these bytes; return its id and which it was.

    A document that is deleted between the conflicting insert and the lock is no longer in the way,
    and the insert is tried again.
    """
    row = values | {
        "storage_key": stored.key,
        "checksum": stored.checksum,
        "size_bytes": stored.size_bytes,
        "mime_type": PDF,
    }
    same = (Document.course_id == row["course_id"], Document.checksum == stored.checksum)
    while True:
        made = insert(Document).values(row).on_conflict_do_nothing().returning(Document.id)
        document_id = await session.scalar(made)
        if document_id is not None:
            return document_id, True
        found = await session.scalar(select(Document.id).where(*same).with_for_update())
        if found is not None:
            return found, False


async def _restore(
    work: Work, storage: ObjectStore, viewer: Viewer, document: Document, copy: StoredFileMeta
) -> None:
    """Make the copy the document's object, where that is gone or of another size.

    Under the row's lock, so that whoever is the last to leave either waits or has taken the row
    with them, and then nothing is put.  A store so slow that the server ends the transaction can
    at worst put an object that the sweep takes again.
    """
    if await _has_object(storage, document):
        return
    async with work.begin() as unit:
        query = select(Document).where(Document.id == document.id).with_for_update()
        locked = await unit.session.scalar(query)
        if locked is None or await _has_object(storage, locked):
            return
        await storage.move_file(copy.key, locked.storage_key)
        if locked.page_count is None:
            await _count_pages(unit, locked.id, viewer)
    log.warning("object_restored", key=document.storage_key)


async def _has_object(storage: ObjectStore, document: Document) -> bool:
    """Tell whether its object is there; a store that cannot tell is no proof that it is not."""
    try:
        found = await storage.stat_file(document.storage_key)
    except ObjectNotFound:
        return False
    except StorageError:
        log.warning("object_not_looked_at", key=document.storage_key, exc_info=True)
        return True
    return found.size_bytes == document.size_bytes


async def _link(session: AsyncSession, viewer: Viewer, document_id: UUID, filename: str) -> None:
    link = insert(UserDocument).values(
        user_id=viewer.id, document_id=document_id, filename=filename
    )
    renamed = link.on_conflict_do_update(
        index_elements=["user_id", "document_id"], set_={"filename": filename}
    )
    await session.execute(renamed)


async def _count_pages(unit: UnitOfWork, document_id: UUID, viewer: Viewer) -> None:
    await ledger.open_job(unit.session, JobKind.COUNT_PAGES, document_id, viewer.id)
    unit.ring()


def _checked_filename(file: IncomingFile) -> str:
    name = checked_filename(file)
    if not name.lower().endswith(".pdf"):
        raise InvalidInput.at(
            "file", "The file's name must end in .pdf.", FieldErrorCode.UNSUPPORTED
        )
    if file.content_type.split(";")[0].strip().lower() not in _PDF_TYPES:
        raise InvalidInput.at(
            "file", "The file's type must be application/pdf.", FieldErrorCode.UNSUPPORTED
        )
    return name


async def _pdf_only(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pass the stream on, or raise `InvalidInput` where it does not start as a PDF does.

    The header is that of ISO 32000-2, 7.5.2.
    """
    head = b""
    async for chunk in chunks:
        if len(head) >= len(_PDF_HEADER):
            yield chunk
            continue
        head += chunk
        if len(head) >= len(_PDF_HEADER):
            _require_pdf(head)
            yield head
    _require_pdf(head)


def _require_pdf(head: bytes) -> None:
    if not head:
        raise InvalidInput.at("file", "The file is empty.", FieldErrorCode.REQUIRED)
    if not head.startswith(_PDF_HEADER):
        raise InvalidInput.at("file", "The file is not a PDF.", FieldErrorCode.UNSUPPORTED)
