"""Lectures: what is read, changed and watched of them."""

from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from typing import Annotated
from uuid import UUID

import strawberry

from app import domain
from app.errors import InvalidInput, NotFound, RateLimited
from app.resolvers.info import Ids, Info, Input, OfCollection, OfCourse, OfTopic, counter
from app.schema.kernel.errors import InvalidInputError, NotFoundError, RateLimitedError
from app.schema.kernel.scalars import parse_optional_uuid, parse_uuid, parse_uuids
from app.schema.kernel.shapes import (
    After,
    First,
    ItemId,
    LinkedConnection,
    make_linked_connection,
)
from app.schema.lectures import (
    CancelLectureDownloadResult,
    DeleteLecturePayload,
    DeleteLectureResult,
    Lecture,
    LectureEvent,
    LecturePayload,
    LinkPreview,
    PreviewLinkResult,
    RequestLectureDownloadInput,
    RequestLectureDownloadPayload,
    RequestLectureDownloadResult,
    RequestLectureDownloadsInput,
    RequestLectureDownloadsPayload,
    RequestLectureDownloadsResult,
    RetryLectureDownloadResult,
    UnlinkLecturePayload,
    UnlinkLectureResult,
    UnlinkLecturesPayload,
    UnlinkLecturesResult,
    UploadLectureInput,
    UploadLecturePayload,
    UploadLectureResult,
)
from app.services.kernel import live
from app.services.kernel.links import Removal
from app.services.kernel.quotas import Quota
from app.services.lectures import preview, read, remove, request, upload
from app.services.lectures.states import ENDED

OfStatus = Annotated[
    domain.LectureStatus | None, strawberry.argument(description="Those that stand there alone.")
]


@strawberry.type
class LectureQueries:
    """Reading lectures."""

    @strawberry.field(
        description="Null unless the viewer is linked to it or an admin: a stranger's lecture and "
        "a missing one look the same."
    )
    async def lecture(self, info: Info, id: ItemId) -> Lecture | None:
        """Return one lecture."""
        lecture_id = parse_uuid(id)
        async with info.context.session() as session:
            row = await read.get_lecture(session, info.context.viewer, lecture_id)
        return None if row is None else Lecture.from_model(row)

    @strawberry.field(description="By when the viewer was linked, newest first.")
    async def lectures(
        self,
        info: Info,
        course_id: OfCourse = None,
        status: OfStatus = None,
        statuses: Annotated[
            list[domain.LectureStatus] | None,
            strawberry.argument(
                description="Those that stand at one of these: none, where it is []."
            ),
        ] = None,
        source: Annotated[
            domain.LectureSource | None,
            strawberry.argument(description="Those that are from there alone."),
        ] = None,
        platform: Annotated[
            str | None, strawberry.argument(description="Those of this platform alone.")
        ] = None,
        topic_id: OfTopic = None,
        collection_id: OfCollection = None,
        first: First = 20,
        after: After = None,
    ) -> LinkedConnection[Lecture]:
        """Return a page of the viewer's lectures."""
        asking = info.context.viewer
        wanted = read.LectureFilter(
            course_id,
            _wanted(status, statuses),
            source,
            platform,
            parse_optional_uuid(topic_id, "topicId"),
            parse_optional_uuid(collection_id, "collectionId"),
        )
        async with info.context.session() as session:
            page = await read.list_lectures(session, asking, wanted, first, after)
        count = counter(info, lambda s: read.count_lectures(s, asking, wanted))
        return make_linked_connection(page, Lecture.from_model, count)

    @strawberry.field(
        description="Asks the source about a link: takes at most 20 s; nothing is stored."
    )
    async def preview_link(
        self, info: Info, url: Annotated[str, strawberry.argument(description="The link.")]
    ) -> PreviewLinkResult:
        """Return what the link is, or why it leads to no lecture."""
        context, previews = info.context, info.context.app.backends.previews
        identity = previews.identity_of(url)
        await context.allowance.spend(Quota.PREVIEWS)
        async with context.session() as session:
            own = await preview.own_lecture(session, context.viewer, identity)
        found = await previews.look(context.viewer, url, identity)
        return LinkPreview(
            platform=found.platform,
            title=found.title,
            duration_seconds=found.duration_seconds,
            is_live=found.is_live,
            lecture=None if own is None else Lecture.from_model(own),
        )

    @strawberry.field(description="Every lecture of every user; admins only.")
    async def all_lectures(
        self, info: Info, status: OfStatus = None, first: First = 20, after: After = None
    ) -> LinkedConnection[Lecture]:
        """Return a page of every user's lectures."""
        asking = info.context.viewer
        async with info.context.session() as session:
            page = await read.list_all_lectures(session, asking, status, first, after)
        count = counter(info, lambda s: read.count_all_lectures(s, status))
        return make_linked_connection(page, Lecture.from_model, count)


@strawberry.type
class LectureMutations:
    """Changing lectures."""

    @strawberry.mutation(
        description="Links the viewer to the recording; new ones are queued. Idempotent per "
        "(course, recording), under any spelling of the URL."
    )
    async def request_lecture_download(
        self, info: Info, input: Annotated[RequestLectureDownloadInput, Input]
    ) -> RequestLectureDownloadResult:
        """Link the viewer to the recording, and queue it where it is new."""
        app = info.context.app
        requested = await request.request_download(
            app.backends.work,
            info.context.viewer,
            request.DownloadRequest(
                input.course_id, input.panopto_url, input.stream_url, input.title
            ),
            app.settings.panopto_hosts,
            info.context.allowance,
        )
        lecture = Lecture.from_model(requested.lecture)
        return RequestLectureDownloadPayload(lecture=lecture, created=requested.created)

    @strawberry.mutation(
        description="As requestLectureDownload, of 1 to 50 links at once; one that is refused "
        "harms no other."
    )
    async def request_lecture_downloads(
        self, info: Info, input: Annotated[RequestLectureDownloadsInput, Input]
    ) -> RequestLectureDownloadsResult:
        """Link the viewer to each recording, and queue those that are new."""
        app, context = info.context.app, info.context
        outcomes = await request.request_downloads(
            app.backends.work,
            context.viewer,
            [
                request.DownloadRequest(
                    input.course_id, each.panopto_url, each.stream_url, each.title
                )
                for each in input.links
            ],
            app.settings.panopto_hosts,
            context.allowance,
        )
        return RequestLectureDownloadsPayload(results=[_requested(each) for each in outcomes])

    @strawberry.mutation(
        description="Takes in one audio or video file, by the GraphQL multipart request "
        "specification; its audio is made behind the answer."
    )
    async def upload_lecture(
        self, info: Info, input: Annotated[UploadLectureInput, Input]
    ) -> UploadLectureResult:
        """Take in one recording while it arrives."""
        context, backends = info.context, info.context.app.backends
        uploaded = await upload.upload_lecture(
            backends.work,
            backends.storage,
            context.viewer,
            input.course_id,
            input.file,
            input.title,
            context.allowance,
        )
        lecture = Lecture.from_model(uploaded.lecture)
        return UploadLecturePayload(lecture=lecture, created=uploaded.created)

    @strawberry.mutation(description="Puts a FAILED lecture back to PENDING and queues it.")
    async def retry_lecture_download(self, info: Info, id: ItemId) -> RetryLectureDownloadResult:
        """Queue a FAILED lecture again."""
        context = info.context
        lecture = await request.retry_download(
            context.app.backends.work, context.viewer, parse_uuid(id), context.allowance
        )
        return LecturePayload(lecture=Lecture.from_model(lecture))

    @strawberry.mutation(
        description="Stops a PENDING or DOWNLOADING lecture: FAILED with failure CANCELLED, "
        "nothing left on disk."
    )
    async def cancel_lecture_download(self, info: Info, id: ItemId) -> CancelLectureDownloadResult:
        """Stop a lecture that waits or is being downloaded."""
        backends = info.context.app.backends
        lecture = await request.cancel_download(
            backends.work,
            backends.storage,
            backends.scratch,
            info.context.viewer,
            parse_uuid(id),
        )
        return LecturePayload(lecture=Lecture.from_model(lecture))

    @strawberry.mutation(
        description="Removes the viewer's link; the last one out removes lecture and files."
    )
    async def unlink_lecture(self, info: Info, id: ItemId) -> UnlinkLectureResult:
        """Remove the viewer's own link."""
        backends = info.context.app.backends
        wanted = parse_uuid(id)
        (gone,) = await remove.unlink_lectures(
            backends.work, backends.storage, backends.scratch, info.context.viewer, [wanted]
        )
        return _unlinked(wanted, gone)

    @strawberry.mutation(
        description="As unlinkLecture, of 1 to 100 at once; one that is not there harms no other."
    )
    async def unlink_lectures(self, info: Info, ids: Ids) -> UnlinkLecturesResult:
        """Remove the viewer's own links."""
        backends, wanted = info.context.app.backends, parse_uuids(ids)
        removals = await remove.unlink_lectures(
            backends.work, backends.storage, backends.scratch, info.context.viewer, wanted
        )
        return UnlinkLecturesPayload(results=list(map(_unlinked, wanted, removals)))

    @strawberry.mutation(description="Admins only: for all users at once.")
    async def delete_lecture(self, info: Info, id: ItemId) -> DeleteLectureResult:
        """Remove the lecture for all users at once."""
        backends = info.context.app.backends
        lecture_id = await remove.delete_lecture(
            backends.work,
            backends.storage,
            backends.scratch,
            info.context.viewer,
            parse_uuid(id),
        )
        return DeleteLecturePayload(lecture_id=strawberry.ID(str(lecture_id)))


@strawberry.type
class LectureSubscriptions:
    """Watching lectures: every event is read anew, and access is checked with it."""

    @strawberry.subscription(
        description="The lecture as it stands now, then at every change; ends once it is COMPLETED "
        "or FAILED, or the viewer loses it."
    )
    async def lecture_status(self, info: Info, id: ItemId) -> AsyncGenerator[Lecture, None]:
        """Yield the lecture now, then at every change, until it has ended."""
        backends, asking, wanted = info.context.app.backends, info.context.viewer, parse_uuid(id)
        states = live.watch(
            backends.lookout,
            backends.wakeups,
            "lecture",
            wanted,
            lambda session: read.get_lecture(session, asking, wanted),
            ENDED,
        )
        async with aclosing(states):
            async for row in states:
                yield Lecture.from_model(row)

    @strawberry.subscription(
        description="Every change of every lecture that the viewer is linked to, from now on (no "
        "snapshot: subscribe, then query); never ends by itself."
    )
    async def my_lectures(self, info: Info) -> AsyncGenerator[LectureEvent, None]:
        """Yield every change of the viewer's lectures."""
        backends, asking = info.context.app.backends, info.context.viewer
        changes = live.follow(backends.lookout, backends.wakeups, asking, read.LECTURES)
        async with aclosing(changes):
            async for change in changes:
                yield LectureEvent.from_change(change)


def _wanted(
    status: domain.LectureStatus | None, statuses: list[domain.LectureStatus] | None
) -> Collection[domain.LectureStatus] | None:
    """Return the statuses that both arguments let through; None where neither is given."""
    if statuses is None:
        return None if status is None else {status}
    return set(statuses) if status is None else {status}.intersection(statuses)


def _requested(
    outcome: request.RequestedLecture | InvalidInput | RateLimited,
) -> RequestLectureDownloadPayload | InvalidInputError | RateLimitedError:
    if isinstance(outcome, InvalidInput):
        return InvalidInputError.of(outcome)
    if isinstance(outcome, RateLimited):
        return RateLimitedError.of(outcome)
    lecture = Lecture.from_model(outcome.lecture)
    return RequestLectureDownloadPayload(lecture=lecture, created=outcome.created)


def _unlinked(wanted: UUID, gone: Removal | None) -> UnlinkLecturePayload | NotFoundError:
    if gone is None:
        return NotFoundError.of(NotFound("lecture", wanted))
    return UnlinkLecturePayload(lecture_id=strawberry.ID(str(gone.item_id)), deleted=gone.deleted)
