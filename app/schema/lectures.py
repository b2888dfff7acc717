"""The public shape of a lecture, of what happens to it, and of what is asked of it."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import strawberry
from strawberry.types.field import StrawberryField

from app.db import models
from app.domain import (
    DownloadStage,
    EventKind,
    LectureFailure,
    LectureSource,
    LectureStatus,
    SummarySource,
)
from app.errors import IngestFailed
from app.schema.courses import Course
from app.schema.kernel.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    RateLimitedError,
)
from app.schema.kernel.files import (
    DEFAULT_LINK_SECONDS,
    IsDownload,
    SignedLink,
    TimeToLive,
    signed_link,
)
from app.schema.kernel.reading import Asked
from app.schema.kernel.scalars import BigInt, Upload
from app.schema.kernel.shapes import Node, expose_enum
from app.schema.transcripts import Transcription
from app.services.kernel.file_grants import LECTURE_AUDIO
from app.services.kernel.live import Change
from app.services.lectures.open_links import link_at
from app.services.lectures.states import RUNNING
from app.services.lectures.unconfirmed import named_session_id

expose_enum(
    LectureStatus,
    "PENDING, DOWNLOADING, then COMPLETED or FAILED.",
    PENDING="It waits for a worker, or for its next attempt.",
    DOWNLOADING="A worker is at it.",
    COMPLETED="Its audio is there.",
    FAILED="It will not go on by itself; `failure` says why.",
)
expose_enum(
    DownloadStage,
    "What the pipeline is doing while a lecture is DOWNLOADING.",
    RESOLVING="Asking the source where the recording is.",
    FETCHING="Fetching it.",
    EXTRACTING="Making the audio file.",
)
expose_enum(
    LectureFailure,
    "Why a lecture FAILED; stable for clients to switch on.",
    LOGIN_REQUIRED="The source wants a login.",
    SOURCE_NOT_FOUND="There is no such recording, or not any more.",
    NO_AUDIO="It has no sound that could be read.",
    BLOCKED_URL="The link leads to a place that is not allowed.",
    TOO_LARGE="It is larger than the service accepts.",
    TRUNCATED="Less of it is there than the source says.",
    TIMEOUT="It took too long.",
    NETWORK="The source could not be reached, or kept breaking off.",
    BLOCKED_CONTENT="The virus scanner refused it.",
    CANCELLED="Somebody cancelled it.",
    INTERNAL="The service failed.",
)


expose_enum(
    LectureSource,
    "Where a lecture is from.",
    LINK="A link that was asked for.",
    UPLOAD="A file that was uploaded.",
)


@strawberry.type
class DownloadProgress:
    """How far the download is."""

    stage: DownloadStage = strawberry.field(description="What is being done.")
    downloaded_bytes: BigInt = strawberry.field(description="What has arrived so far.")
    total_bytes: BigInt | None = strawberry.field(
        description="Null while the source has not told its size."
    )
    percent: float | None = strawberry.field(description="0 to 100; null while totalBytes is.")


async def _current(root: "Lecture", info: Asked) -> models.Transcription | None:
    rows = await info.context.loaders.transcriptions.load(UUID(root.id))
    return next((row for row in rows if row.is_current), None)


async def _transcription(root: "Lecture", info: Asked) -> Transcription | None:
    current = await _current(root, info)
    return None if current is None else Transcription.from_model(current, info.context)


async def _summary(root: "Lecture", info: Asked) -> str | None:
    current = await _current(root, info)
    return None if current is None else current.summary


async def _summary_source(root: "Lecture", info: Asked) -> SummarySource | None:
    current = await _current(root, info)
    return None if current is None else current.summary_source


async def _transcriptions(root: "Lecture", info: Asked) -> list[Transcription]:
    rows = await info.context.loaders.transcriptions.load(UUID(root.id))
    return [Transcription.from_model(row, info.context) for row in rows]


def _signed_audio(
    root: "Lecture",
    info: Asked,
    ttl_seconds: TimeToLive = DEFAULT_LINK_SECONDS,
    download: IsDownload = False,
) -> SignedLink | None:
    if root.audio_url is None:
        return None
    item_id = UUID(root.id)
    return signed_link(
        info.context, LECTURE_AUDIO, root.audio_url, item_id, ttl_seconds, download=bool(download)
    )


def open_url(
    root: "Lecture",
    at_seconds: Annotated[
        float | None, strawberry.argument(description="Where it begins; left out: the beginning.")
    ] = None,
) -> str | None:
    """Return the viewer page at that second, where the platform has such links."""
    if root.panopto_url is None:
        return None
    seconds = at_seconds or 0.0
    return link_at(root.panopto_url, root.platform, root.panopto_session_id, seconds)


@strawberry.type
class Lecture(Node):
    """A recording of a course, shared by everyone linked to it."""

    course_id: UUID = strawberry.field(description="The course that it was asked for in.")
    course: Course | None = strawberry.field(
        description="Null where the id names no course in the catalogue."
    )
    panopto_session_id: str | None = strawberry.field(
        description="The recording's id at Panopto; null elsewhere, and until it is known."
    )
    panopto_url: str | None = strawberry.field(
        description="The link as it was first asked for; null for uploads."
    )
    title: str | None = strawberry.field(description="Null until one is known.")
    duration_seconds: int | None = strawberry.field(
        description="Rounded to the nearest; null until it is COMPLETED."
    )
    status: LectureStatus = strawberry.field(description="Where it stands.")
    failure: LectureFailure | None = strawberry.field(description="Null unless it is FAILED.")
    error_message: str | None = strawberry.field(
        description="For people: why it FAILED, or why a PENDING one waits; null otherwise."
    )
    progress: DownloadProgress | None = strawberry.field(
        description="Null unless it is DOWNLOADING."
    )
    revision: int = strawberry.field(
        description="Grows with every change of the lecture; a client drops an event whose "
        "revision it has passed."
    )
    attempt: int = strawberry.field(description="How often it was taken up by a worker.")
    next_attempt_at: datetime | None = strawberry.field(
        description="When a PENDING lecture that waits is tried again; null where it only queues."
    )
    started_at: datetime | None = strawberry.field(
        description="When a worker first took it up; null before."
    )
    completed_at: datetime | None = strawberry.field(
        description="When it was COMPLETED; null before."
    )
    created_at: datetime = strawberry.field(description="When it was first asked for.")
    updated_at: datetime = strawberry.field(description="When it last changed, progress apart.")
    source: LectureSource = strawberry.field(description="Where it is from.")
    platform: str | None = strawberry.field(
        description="Where it comes from, in lower case as 'panopto', 'youtube', 'vimeo', "
        "'googledrive', 'direct'; yt-dlp's extractor name for other sites; null for uploads and "
        "until it is known."
    )
    filename: str | None = strawberry.field(
        description="The name under which the viewer uploaded it; null for links."
    )
    audio_bytes: BigInt | None = strawberry.field(
        description="Bytes of the stored audio, null where there is none."
    )
    audio_url: str | None = strawberry.field(
        description="Path on this service that streams the audio (m4a) for users linked to it and "
        "admins; null where there is none."
    )
    signed_audio: SignedLink | None = strawberry.field(
        resolver=_signed_audio,
        description="The same, signed: for <audio> and links that cannot send a token. 30 to 3600 "
        "seconds.",
    )
    open_url: str | None = strawberry.field(
        resolver=open_url,
        description="The viewer page at that second, where the platform has such links; null "
        "otherwise.",
    )
    viewer_can_retry: bool = strawberry.field(
        description="Whether retryLectureDownload would queue it again, quotas apart."
    )
    viewer_can_cancel: bool = strawberry.field(
        description="Whether cancelLectureDownload would stop it: not while others use it too, "
        "admins excepted. It may change without a new revision."
    )

    transcription: Transcription | None = strawberry.field(
        resolver=_transcription,
        description="The current one: the newest COMPLETED of speech recognition, else of "
        "captions.",
    )
    transcriptions: list[Transcription] = strawberry.field(
        resolver=_transcriptions, description="All of them, newest first."
    )
    summary: str | None = strawberry.field(
        resolver=_summary,
        description="Of the current transcription; null until it is indexed, and where there is "
        "nothing to sum it up with.",
    )
    summary_source: SummarySource | None = strawberry.field(
        resolver=_summary_source, description="Who wrote the summary; null where there is none."
    )

    @classmethod
    def from_model(cls, row: models.Lecture) -> "Lecture":
        """Return the row, read with its course, in its public shape."""
        return cls(
            id=strawberry.ID(str(row.id)),
            course_id=row.course_id,
            course=None if row.course is None else Course.from_model(row.course),
            panopto_session_id=named_session_id(row),
            panopto_url=row.panopto_url if row.source is LectureSource.LINK else None,
            title=row.title,
            duration_seconds=row.duration_seconds,
            status=row.status,
            failure=row.failure,
            error_message=row.error_message,
            progress=_progress(row),
            revision=row.revision,
            attempt=row.attempt,
            next_attempt_at=row.next_attempt_at,
            started_at=row.started_at,
            completed_at=row.completed_at,
            created_at=row.created_at,
            updated_at=row.updated_at,
            source=row.source,
            platform=row.platform,
            filename=row.filename,
            audio_bytes=None if row.audio_bytes is None else BigInt(row.audio_bytes),
            audio_url=f"/api/lectures/{row.id}/audio" if row.audio_storage_key else None,
            viewer_can_retry=row.status is LectureStatus.FAILED,
            viewer_can_cancel=row.status in RUNNING and row.is_held is False,
        )


def _progress(row: models.Lecture) -> DownloadProgress | None:
    if row.stage is None:
        return None
    total = row.total_bytes
    return DownloadProgress(
        stage=row.stage,
        downloaded_bytes=BigInt(row.downloaded_bytes),
        total_bytes=None if total is None else BigInt(total),
        percent=min(100.0, 100.0 * row.downloaded_bytes / total) if total else None,
    )


@strawberry.type
class LectureStatusCount:
    """How many of the viewer's lectures stand somewhere."""

    status: LectureStatus = strawberry.field(description="Where they stand.")
    count: int = strawberry.field(description="How many; 0 where there is none.")


@strawberry.type
class LectureEvent:
    """A change of a lecture that the viewer is, or was, linked to."""

    kind: EventKind = strawberry.field(description="What happened.")
    lecture_id: strawberry.ID = strawberry.field(description="Its id.")
    lecture: Lecture | None = strawberry.field(
        description="lecture is null once the viewer has lost it."
    )

    @classmethod
    def from_change(cls, change: Change[models.Lecture]) -> "LectureEvent":
        """Return the change in its public shape."""
        lecture = None if change.item is None else Lecture.from_model(change.item)
        lecture_id = strawberry.ID(str(change.item_id))
        return cls(kind=change.kind, lecture_id=lecture_id, lecture=lecture)


@strawberry.input
class RequestLectureDownloadInput:
    """The link that a student pasted."""

    course_id: UUID = strawberry.field(description="The course that it is for.")
    panopto_url: str = strawberry.field(description="The viewer link that the browser shows.")
    stream_url: str | None = strawberry.field(
        default=None,
        description="A direct media URL (mp4 or HLS); left out, it is resolved from panoptoUrl.",
    )
    title: str | None = strawberry.field(
        default=None, description="Left out or blank: the recording's own."
    )


@strawberry.type
class RequestLectureDownloadPayload:
    """The lecture that the viewer is now linked to."""

    lecture: Lecture = strawberry.field(description="As it stands now.")
    created: bool = strawberry.field(
        description="False where the course had this recording already: the viewer is now linked "
        "to it."
    )


RequestLectureDownloadResult = Annotated[
    RequestLectureDownloadPayload | InvalidInputError | RateLimitedError,
    strawberry.union(
        "RequestLectureDownloadResult", description="The lecture, or why it was not asked for."
    ),
]


@strawberry.type
class LinkPreview:
    """What a link is, before anything is fetched."""

    platform: str = strawberry.field(description="Where it comes from, as Lecture.platform.")
    title: str | None = strawberry.field(description="Null where the source tells none.")
    duration_seconds: int | None = strawberry.field(description="Null where the source tells none.")
    is_live: bool = strawberry.field(description="Whether it goes on, or is being encoded.")
    lecture: Lecture | None = strawberry.field(
        description="The lecture that the viewer has of it already, in any course."
    )


@strawberry.type
class LinkRefused:
    """Why the link leads to no lecture."""

    failure: LectureFailure = strawberry.field(description="What a lecture of it would fail with.")
    message: str = strawberry.field(description="The same, for people.")


class LinkRefusedHandler(strawberry.ExceptionHandler[IngestFailed, LinkRefused]):
    """`IngestFailed` to ``LinkRefused``."""

    def handle(
        self, exception: IngestFailed, *, field: StrawberryField, info: strawberry.Info
    ) -> LinkRefused:
        """Return the refusal in its public shape."""
        return LinkRefused(failure=exception.failure, message=exception.message)


PreviewLinkResult = Annotated[
    LinkPreview | LinkRefused | InvalidInputError | RateLimitedError,
    strawberry.union("PreviewLinkResult", description="What the link is, or why it is none."),
]


@strawberry.input
class LectureLink:
    """A link that a student pasted."""

    panopto_url: str = strawberry.field(description="The viewer link that the browser shows.")
    stream_url: str | None = strawberry.field(
        default=None,
        description="A direct media URL (mp4 or HLS); left out, it is resolved from panoptoUrl.",
    )
    title: str | None = strawberry.field(
        default=None, description="Left out or blank: the recording's own."
    )


@strawberry.input
class RequestLectureDownloadsInput:
    """The links that a student pasted."""

    course_id: UUID = strawberry.field(description="The course that they are for.")
    links: list[LectureLink] = strawberry.field(description="1 to 50.")


@strawberry.type
class RequestLectureDownloadsPayload:
    """What became of each link."""

    results: list[RequestLectureDownloadResult] = strawberry.field(
        description="One result for each link, in their order; a bad one harms no other."
    )


RequestLectureDownloadsResult = Annotated[
    RequestLectureDownloadsPayload | InvalidInputError | RateLimitedError,
    strawberry.union(
        "RequestLectureDownloadsResult",
        description="What became of the links, or why none was asked for.",
    ),
]


@strawberry.input
class UploadLectureInput:
    """A recording, as a file."""

    course_id: UUID = strawberry.field(description="The course that it is for.")
    file: Upload = strawberry.field(
        description="mp3, wav, m4a, aac, ogg, opus, flac, webm, mp4, mov or mkv."
    )
    title: str | None = strawberry.field(default=None, description="What it is called.")


@strawberry.type
class UploadLecturePayload:
    """The lecture that the viewer is now linked to."""

    lecture: Lecture = strawberry.field(description="As it stands now.")
    created: bool = strawberry.field(
        description="False where the course had these very bytes already."
    )


UploadLectureResult = Annotated[
    UploadLecturePayload | InvalidInputError | RateLimitedError,
    strawberry.union(
        "UploadLectureResult", description="The lecture, or why the file was not taken."
    ),
]


@strawberry.type
class LecturePayload:
    """The lecture as it stands now."""

    lecture: Lecture = strawberry.field(description="As it stands now.")


RetryLectureDownloadResult = Annotated[
    LecturePayload | NotFoundError | ConflictError | RateLimitedError,
    strawberry.union(
        "RetryLectureDownloadResult", description="The lecture, or why it is not tried again."
    ),
]


CancelLectureDownloadResult = Annotated[
    LecturePayload | NotFoundError | ConflictError,
    strawberry.union("CancelLectureDownloadResult", description="The lecture, or why it goes on."),
]


@strawberry.type
class UnlinkLecturePayload:
    """The viewer's link is gone."""

    lecture_id: strawberry.ID = strawberry.field(description="Its id.")
    deleted: bool = strawberry.field(
        description="True where the viewer was the last one linked, so that lecture and files are "
        "gone."
    )


UnlinkLectureResult = Annotated[
    UnlinkLecturePayload | NotFoundError,
    strawberry.union(
        "UnlinkLectureResult", description="What became of the lecture, or that there is none."
    ),
]


@strawberry.type
class UnlinkLecturesPayload:
    """What became of each lecture."""

    results: list[UnlinkLectureResult] = strawberry.field(
        description="One for each id, in their order."
    )


UnlinkLecturesResult = Annotated[
    UnlinkLecturesPayload | InvalidInputError,
    strawberry.union(
        "UnlinkLecturesResult", description="What became of the lectures, or why nothing did."
    ),
]


@strawberry.type
class DeleteLecturePayload:
    """The lecture is gone for everyone."""

    lecture_id: strawberry.ID = strawberry.field(description="Its id.")


DeleteLectureResult = Annotated[
    DeleteLecturePayload | NotFoundError,
    strawberry.union(
        "DeleteLectureResult", description="The id of what is gone, or that there is none."
    ),
]
