"""Documents: what is read, changed and watched of them."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated
from uuid import UUID

import strawberry

from app.errors import NotFound
from app.resolvers.info import Ids, Info, Input, OfCollection, OfCourse, counter
from app.schema.documents import (
    DeleteDocumentPayload,
    DeleteDocumentResult,
    Document,
    DocumentEvent,
    UnlinkDocumentPayload,
    UnlinkDocumentResult,
    UnlinkDocumentsPayload,
    UnlinkDocumentsResult,
    UploadDocumentInput,
    UploadDocumentPayload,
    UploadDocumentResult,
)
from app.schema.kernel.errors import NotFoundError
from app.schema.kernel.scalars import parse_optional_uuid, parse_uuid, parse_uuids
from app.schema.kernel.shapes import (
    After,
    First,
    ItemId,
    LinkedConnection,
    make_linked_connection,
)
from app.services.documents import read, remove, upload
from app.services.kernel import live
from app.services.kernel.links import Removal


@strawberry.type
class DocumentQueries:
    """Reading documents."""

    @strawberry.field(
        description="Null unless the viewer is linked to it or an admin, as for a lecture."
    )
    async def document(self, info: Info, id: ItemId) -> Document | None:
        """Return one document."""
        document_id = parse_uuid(id)
        async with info.context.session() as session:
            own = await read.get_document(session, info.context.viewer, document_id)
        return None if own is None else Document.from_model(own)

    @strawberry.field(description="By when the viewer was linked, newest first.")
    async def documents(
        self,
        info: Info,
        course_id: OfCourse = None,
        collection_id: OfCollection = None,
        first: First = 20,
        after: After = None,
    ) -> LinkedConnection[Document]:
        """Return a page of the viewer's documents."""
        asking = info.context.viewer
        collection = parse_optional_uuid(collection_id, "collectionId")
        wanted = read.DocumentFilter(course_id, collection)
        async with info.context.session() as session:
            page = await read.list_documents(session, asking, wanted, first, after)
        count = counter(info, lambda s: read.count_documents(s, asking, wanted))
        return make_linked_connection(page, Document.from_model, count)


@strawberry.type
class DocumentMutations:
    """Changing documents."""

    @strawberry.mutation(
        description="Takes in one PDF, by the GraphQL multipart request specification."
    )
    async def upload_document(
        self, info: Info, input: Annotated[UploadDocumentInput, Input]
    ) -> UploadDocumentResult:
        """Take in one PDF while it arrives."""
        context, backends = info.context, info.context.app.backends
        uploaded = await upload.upload_document(
            backends.work,
            backends.storage,
            context.viewer,
            input.course_id,
            input.file,
            context.allowance,
        )
        document = Document.from_model(uploaded.document)
        return UploadDocumentPayload(document=document, created=uploaded.created)

    @strawberry.mutation(
        description="Removes the viewer's link; the last one out removes document and file."
    )
    async def unlink_document(self, info: Info, id: ItemId) -> UnlinkDocumentResult:
        """Remove the viewer's own link."""
        backends = info.context.app.backends
        wanted = parse_uuid(id)
        (gone,) = await remove.unlink_documents(
            backends.work, backends.storage, info.context.viewer, [wanted]
        )
        return _unlinked(wanted, gone)

    @strawberry.mutation(
        description="As unlinkDocument, of 1 to 100 at once; one that is not there harms no other."
    )
    async def unlink_documents(self, info: Info, ids: Ids) -> UnlinkDocumentsResult:
        """Remove the viewer's own links."""
        backends, wanted = info.context.app.backends, parse_uuids(ids)
        removals = await remove.unlink_documents(
            backends.work, backends.storage, info.context.viewer, wanted
        )
        return UnlinkDocumentsPayload(results=list(map(_unlinked, wanted, removals)))

    @strawberry.mutation(description="Admins only: for all users at once.")
    async def delete_document(self, info: Info, id: ItemId) -> DeleteDocumentResult:
        """Remove the document for all users at once."""
        backends = info.context.app.backends
        document_id = await remove.delete_document(
            backends.work, backends.storage, info.context.viewer, parse_uuid(id)
        )
        return DeleteDocumentPayload(document_id=strawberry.ID(str(document_id)))


@strawberry.type
class DocumentSubscriptions:
    """Watching documents: every event is read anew, and access is checked with it."""

    @strawberry.subscription(
        description="Likewise for documents: page counts, links gained and lost."
    )
    async def my_documents(self, info: Info) -> AsyncGenerator[DocumentEvent, None]:
        """Yield every change of the viewer's documents."""
        backends, asking = info.context.app.backends, info.context.viewer
        changes = live.follow(backends.lookout, backends.wakeups, asking, read.DOCUMENTS)
        async with aclosing(changes):
            async for change in changes:
                document = None if change.item is None else Document.from_model(change.item)
                document_id = strawberry.ID(str(change.item_id))
                yield DocumentEvent(kind=change.kind, document_id=document_id, document=document)


def _unlinked(wanted: UUID, gone: Removal | None) -> UnlinkDocumentPayload | NotFoundError:
    if gone is None:
        return NotFoundError.of(NotFound("document", wanted))
    return UnlinkDocumentPayload(document_id=strawberry.ID(str(gone.item_id)), deleted=gone.deleted)
