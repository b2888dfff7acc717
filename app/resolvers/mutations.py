"""Mutations: decode, call the service, read what it made.  Errors pass through to the error map."""

from typing import Annotated

import strawberry

from app.errors import NotFound
from app.resolvers.info import Info, document_shape
from app.schema.kernel.errors import NotFoundError
from app.schema.kernel.scalars import parse_uuid
from app.schema.kernel.shapes import ItemId
from app.schema.lectures import Lecture
from app.schema.mutation_types import (
    CancelLectureDownloadResult,
    DeleteDocumentPayload,
    DeleteDocumentResult,
    DeleteLecturePayload,
    DeleteLectureResult,
    LecturePayload,
    RequestLectureDownloadInput,
    RequestLectureDownloadPayload,
    RequestLectureDownloadResult,
    RetryLectureDownloadResult,
    UnlinkDocumentPayload,
    UnlinkDocumentResult,
    UnlinkDocumentsPayload,
    UnlinkDocumentsResult,
    UnlinkLecturePayload,
    UnlinkLectureResult,
    UnlinkLecturesPayload,
    UnlinkLecturesResult,
    UploadDocumentInput,
    UploadDocumentPayload,
    UploadDocumentResult,
)
from app.services import removal
from app.services.documents import upload as uploads
from app.services.lectures import request as lecture_requests

Ids = Annotated[list[strawberry.ID], strawberry.argument(description="1 to 100 ids.")]
_INPUT = strawberry.argument(description="What is asked for.")


async def request_lecture_download(
    info: Info, input: Annotated[RequestLectureDownloadInput, _INPUT]
) -> RequestLectureDownloadResult:
    """Link the viewer to the recording, and queue it where it is new."""
    app = info.context.app
    request = lecture_requests.DownloadRequest(
        input.course_id, input.panopto_url, input.stream_url, input.title
    )
    requested = await lecture_requests.request_download(
        app.backends.work,
        info.context.viewer,
        request,
        app.settings.panopto_hosts,
        info.context.allowance,
    )
    lecture = Lecture.from_model(requested.lecture)
    return RequestLectureDownloadPayload(lecture=lecture, created=requested.created)


async def retry_lecture_download(info: Info, id: ItemId) -> RetryLectureDownloadResult:
    """Queue a FAILED lecture again."""
    context = info.context
    lecture = await lecture_requests.retry_download(
        context.app.backends.work, context.viewer, parse_uuid(id), context.allowance
    )
    return LecturePayload(lecture=Lecture.from_model(lecture))


async def cancel_lecture_download(info: Info, id: ItemId) -> CancelLectureDownloadResult:
    """Stop a lecture that waits or is being downloaded."""
    backends = info.context.app.backends
    lecture = await lecture_requests.cancel_download(
        backends.work, backends.scratch, info.context.viewer, parse_uuid(id)
    )
    return LecturePayload(lecture=Lecture.from_model(lecture))


async def upload_document(
    info: Info, input: Annotated[UploadDocumentInput, _INPUT]
) -> UploadDocumentResult:
    """Take in one PDF while it arrives."""
    context, backends = info.context, info.context.app.backends
    uploaded = await uploads.upload_document(
        backends.work,
        backends.storage,
        context.viewer,
        input.course_id,
        input.file,
        context.allowance,
    )
    document = document_shape(info)(uploaded.document)
    return UploadDocumentPayload(document=document, created=uploaded.created)


async def unlink_lecture(info: Info, id: ItemId) -> UnlinkLectureResult:
    """Remove the viewer's own link."""
    backends = info.context.app.backends
    stores = backends.storage, backends.scratch
    gone = await removal.unlink_lecture(backends.work, *stores, info.context.viewer, parse_uuid(id))
    return _unlinked_lecture(gone)


async def unlink_document(info: Info, id: ItemId) -> UnlinkDocumentResult:
    """Remove the viewer's own link."""
    backends = info.context.app.backends
    gone = await removal.unlink_document(
        backends.work, backends.storage, info.context.viewer, parse_uuid(id)
    )
    return _unlinked_document(gone)


async def unlink_lectures(info: Info, ids: Ids) -> UnlinkLecturesResult:
    """Remove the viewer's own links."""
    backends, wanted = info.context.app.backends, [parse_uuid(text) for text in ids]
    stores = backends.storage, backends.scratch
    removals = await removal.unlink_lectures(backends.work, *stores, info.context.viewer, wanted)
    results = [
        _unlinked_lecture(gone) if gone else NotFoundError.of(NotFound("lecture", asked))
        for asked, gone in zip(wanted, removals, strict=True)
    ]
    return UnlinkLecturesPayload(results=results)


async def unlink_documents(info: Info, ids: Ids) -> UnlinkDocumentsResult:
    """Remove the viewer's own links."""
    backends, wanted = info.context.app.backends, [parse_uuid(text) for text in ids]
    removals = await removal.unlink_documents(
        backends.work, backends.storage, info.context.viewer, wanted
    )
    results = [
        _unlinked_document(gone) if gone else NotFoundError.of(NotFound("document", asked))
        for asked, gone in zip(wanted, removals, strict=True)
    ]
    return UnlinkDocumentsPayload(results=results)


def _unlinked_lecture(gone: removal.Removal) -> UnlinkLecturePayload:
    return UnlinkLecturePayload(lecture_id=strawberry.ID(str(gone.item_id)), deleted=gone.deleted)


def _unlinked_document(gone: removal.Removal) -> UnlinkDocumentPayload:
    return UnlinkDocumentPayload(document_id=strawberry.ID(str(gone.item_id)), deleted=gone.deleted)


async def delete_lecture(info: Info, id: ItemId) -> DeleteLectureResult:
    """Remove the lecture for all users at once."""
    backends = info.context.app.backends
    stores = backends.storage, backends.scratch
    lecture_id = await removal.delete_lecture(
        backends.work, *stores, info.context.viewer, parse_uuid(id)
    )
    return DeleteLecturePayload(lecture_id=strawberry.ID(str(lecture_id)))


async def delete_document(info: Info, id: ItemId) -> DeleteDocumentResult:
    """Remove the document for all users at once."""
    backends = info.context.app.backends
    document_id = await removal.delete_document(
        backends.work, backends.storage, info.context.viewer, parse_uuid(id)
    )
    return DeleteDocumentPayload(document_id=strawberry.ID(str(document_id)))
