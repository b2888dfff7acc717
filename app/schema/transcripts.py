"""The public shape of transcriptions, of their text, and of what is asked of them."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import strawberry

from app.db import models
from app.domain import (
    EventKind,
    TranscriptFormat,
    TranscriptionFailure,
    TranscriptionSource,
    TranscriptionStatus,
    TranscriptionWarning,
)
from app.errors import NotFound
from app.schema.kernel.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    RateLimitedError,
)
from app.schema.kernel.reading import Asked, Reading
from app.schema.kernel.shapes import After, Connection, Node, expose_enum, make_connection
from app.services.kernel.live import Change
from app.services.transcripts.text import TranscriptText, page_of
from app.speech.transcriber import SpeechModel
from app.transcript.model import Segment

if TYPE_CHECKING:
    from app.schema.lectures import Lecture
    from app.schema.topics import TopicAssignment

expose_enum(
    TranscriptionStatus,
    "PENDING, PROCESSING, then COMPLETED or FAILED.",
    PENDING="It waits for a worker, or for its next attempt.",
    PROCESSING="A worker listens.",
    COMPLETED="Its text is there.",
    FAILED="It will not go on by itself; `failure` says why.",
)
expose_enum(
    TranscriptionSource,
    "Who wrote the words down.",
    CAPTIONS="The recording's source had them.",
    SPEECH_RECOGNITION="A model has listened.",
)
expose_enum(
    TranscriptionFailure,
    "Why a transcription FAILED; stable for clients to switch on.",
    NO_AUDIO="There is no sound that could be read, or not any more.",
    BAD_MODEL="The model cannot be used.",
    TIMEOUT="It took too long.",
    CANCELLED="Somebody cancelled it.",
    INTERNAL="The service failed.",
)
expose_enum(
    TranscriptionWarning,
    "What a reader should know of a COMPLETED one; more may come.",
    LOW_CONFIDENCE="Passages of it are far less sure than speech that was understood.",
    LANGUAGE_UNCERTAIN="The language was detected with little certainty.",
    PARTIAL_AUDIO="The audio's source says that there is more of it.",
)


expose_enum(
    TranscriptFormat,
    "The forms that a transcript is exported in.",
    SRT="SubRip.",
    VTT="WebVTT.",
    TXT="The text alone.",
    JSON="All that is known, word by word; versioned.",
)


@strawberry.type
class TranscriptSegment:
    """What is shown at once.  A pause belongs to none, and none overlaps the next."""

    index: int = strawberry.field(description="Its place, from 0.")
    start_seconds: float = strawberry.field(description="When its first word begins.")
    end_seconds: float = strawberry.field(description="When its last word ends.")
    text: str = strawberry.field(description="What is said.")
    confidence: float | None = strawberry.field(description="0 to 1")

    @classmethod
    def from_model(cls, numbered: tuple[int, Segment]) -> "TranscriptSegment":
        """Return the segment with its place in its public shape."""
        index, segment = numbered
        return cls(
            index=index,
            start_seconds=segment.start,
            end_seconds=segment.end,
            text=segment.text,
            confidence=segment.confidence,
        )


@strawberry.type
class TranscriptChunk:
    """A window of a transcription, as search sees it: whole sentences, about half a minute.

    `text` equals transcription.text from startCharacter to endCharacter.
    """

    index: int = strawberry.field(description="Its place, from 0.")
    text: str = strawberry.field(description="What is said.")
    start_seconds: float = strawberry.field(description="When its first sentence begins.")
    end_seconds: float = strawberry.field(description="When its last one ends.")
    start_character: int = strawberry.field(description="Code points of the whole text.")
    end_character: int = strawberry.field(description="Excluded.")
    confidence: float | None = strawberry.field(description="0 to 1; null for captions.")
    keywords: list[str] = strawberry.field(description="What it is about, the best first.")
    topic_summary: str | None = strawberry.field(
        description="By a language model, where the service is configured for one."
    )

    @classmethod
    def from_model(cls, numbered: tuple[int, models.TranscriptionChunk]) -> "TranscriptChunk":
        """Return the row in its public shape."""
        index, row = numbered
        return cls(
            index=index,
            text=row.text,
            start_seconds=row.start_time,
            end_seconds=row.end_time,
            start_character=row.start_char_pos,
            end_character=row.end_char_pos,
            confidence=row.confidence,
            keywords=row.keywords,
            topic_summary=row.topic_summary,
        )


async def _lecture(
    root: "Transcription", info: Asked
) -> Annotated["Lecture", strawberry.lazy("app.schema.lectures")]:
    from app.schema.lectures import Lecture

    row = await info.context.loaders.lectures.load(root.lecture_id)
    if row is None:  # Lost since the transcription was read.
        raise NotFound("lecture", root.lecture_id)
    return Lecture.from_model(row)


async def _topics(
    root: "Transcription", info: Asked
) -> list[Annotated["TopicAssignment", strawberry.lazy("app.schema.topics")]]:
    from app.schema.topics import TopicAssignment

    rows = await info.context.loaders.topic_assignments.load(UUID(root.id))
    return [TopicAssignment.from_model(row, root) for row in rows]


async def _text(root: "Transcription") -> str | None:
    text = await root.content.load()
    return None if text is None else text.text


async def _segments(
    root: "Transcription",
    first: Annotated[
        int | None, strawberry.argument(description="How long the page is at most: 1 to 100.")
    ] = 100,
    after: Annotated[
        str | None,
        strawberry.argument(
            description="The cursor that the page follows; left out: the first page."
        ),
    ] = None,
) -> Connection[TranscriptSegment]:
    text = await root.content.load()
    segments = () if text is None else text.segments

    async def count() -> int:
        return len(segments)

    page = page_of(segments, first, after)
    return make_connection(page, TranscriptSegment.from_model, count)


async def _chunks(
    root: "Transcription",
    info: Asked,
    first: Annotated[
        int | None, strawberry.argument(description="How long the page is at most: 1 to 100.")
    ] = 100,
    after: After = None,
) -> Connection[TranscriptChunk]:
    chunks = await info.context.loaders.chunks.load(UUID(root.id))

    async def count() -> int:
        return len(chunks)

    return make_connection(page_of(chunks, first, after), TranscriptChunk.from_model, count)


async def _export(
    root: "Transcription",
    format: Annotated[  # noqa: A002 - the argument's name
        TranscriptFormat, strawberry.argument(description="Which form.")
    ],
) -> str | None:
    return await root.content.export(format)


@strawberry.type
class Transcription(Node):
    """A lecture's words, by its source's captions or by a model that has listened."""

    lecture_id: strawberry.Private[UUID]
    content: strawberry.Private[TranscriptText]
    lecture: Annotated["Lecture", strawberry.lazy("app.schema.lectures")] = strawberry.field(
        resolver=_lecture, description="Whose words they are."
    )
    status: TranscriptionStatus = strawberry.field(description="Where it stands.")
    failure: TranscriptionFailure | None = strawberry.field(description="Null unless it is FAILED.")
    error_message: str | None = strawberry.field(
        description="For people: why it FAILED, or why a PENDING one waits; null otherwise."
    )
    source: TranscriptionSource = strawberry.field(description="Who wrote them down.")
    model: str | None = strawberry.field(
        description="As the service's configuration names it; null for captions."
    )
    language: str | None = strawberry.field(
        description="BCP 47, detected or forced; null until it is known."
    )
    is_language_forced: bool = strawberry.field(description="Whether it was asked for.")
    average_confidence: float | None = strawberry.field(
        description="0 to 1, over all segments, by their length; null for captions."
    )
    processing_seconds: float | None = strawberry.field(
        description="From when a worker first took it up to its end; null before, and for captions."
    )
    warnings: list[TranscriptionWarning] = strawberry.field(
        description="What a reader should know."
    )
    percent: float | None = strawberry.field(
        description="0 to 100 while PROCESSING, null otherwise."
    )
    is_current: bool = strawberry.field(
        description="The one that search and lecture.transcription use."
    )
    revision: int = strawberry.field(
        description="Grows with every change; a client drops an event whose revision it has passed."
    )
    text: str | None = strawberry.field(
        resolver=_text, description="The whole text; empty for silence, null until COMPLETED."
    )
    segments: Connection[TranscriptSegment] = strawberry.field(
        resolver=_segments, description="The text with its times, in order; none until COMPLETED."
    )
    chunks: Connection[TranscriptChunk] = strawberry.field(
        resolver=_chunks, description="Windows of it as search sees them; empty until indexed."
    )
    export: str | None = strawberry.field(
        resolver=_export,
        description="The whole transcript as a file of that format; null until COMPLETED.",
    )
    topics: list[Annotated["TopicAssignment", strawberry.lazy("app.schema.topics")]] = (
        strawberry.field(
            resolver=_topics,
            description="What it is about, of the viewer's own topics, by their names; REJECTED "
            "ones too.",
        )
    )
    created_at: datetime = strawberry.field(description="When it was asked for.")
    updated_at: datetime = strawberry.field(description="When it last changed, progress apart.")
    completed_at: datetime | None = strawberry.field(
        description="When it was COMPLETED; null before."
    )

    @classmethod
    def from_model(cls, row: models.Transcription, reading: Reading) -> "Transcription":
        """Return the row in its public shape; its text is read where it is asked for."""
        return cls(
            id=strawberry.ID(str(row.id)),
            lecture_id=row.lecture_id,
            content=reading.text_of(row.storage_key),
            status=row.status,
            failure=row.failure,
            error_message=row.error_message,
            source=row.source,
            model=row.model_name,
            language=row.language,
            is_language_forced=row.is_language_forced,
            average_confidence=row.avg_confidence,
            processing_seconds=row.processing_seconds,
            warnings=[TranscriptionWarning(each) for each in row.warnings],
            percent=row.progress if row.status is TranscriptionStatus.PROCESSING else None,
            is_current=bool(row.is_current),
            revision=row.revision,
            created_at=row.created_at,
            updated_at=row.updated_at,
            completed_at=row.completed_at,
        )


@strawberry.type
class TranscriptionModel:
    """A model that listens."""

    name: str = strawberry.field(description="As the service's configuration names it.")
    is_default: bool = strawberry.field(description="Whether it is taken where none is named.")
    languages: list[str] = strawberry.field(description="BCP 47; empty: all that it detects.")

    @classmethod
    def from_model(cls, model: SpeechModel, *, is_default: bool) -> "TranscriptionModel":
        """Return the model in its public shape."""
        return cls(name=model.name, is_default=is_default, languages=list(model.languages))


@strawberry.type
class TranscriptionEvent:
    """A change of a transcription of one of the viewer's lectures."""

    kind: EventKind = strawberry.field(description="What happened.")
    transcription_id: strawberry.ID = strawberry.field(description="Its id.")
    transcription: Transcription | None = strawberry.field(
        description="transcription is null once the viewer has lost it."
    )

    @classmethod
    def from_change(
        cls, change: Change[models.Transcription], reading: Reading
    ) -> "TranscriptionEvent":
        """Return the change in its public shape."""
        row = change.item
        return cls(
            kind=change.kind,
            transcription_id=strawberry.ID(str(change.item_id)),
            transcription=None if row is None else Transcription.from_model(row, reading),
        )


@strawberry.input
class RequestTranscriptionInput:
    """What is to be transcribed."""

    lecture_id: strawberry.ID = strawberry.field(description="Whose audio.")
    model: str | None = strawberry.field(
        default=None, description="One of transcriptionModels; left out: the default."
    )
    language: str | None = strawberry.field(
        default=None, description="Forced language, BCP 47; left out: detected."
    )


@strawberry.type
class RequestTranscriptionPayload:
    """The transcription that there is now."""

    transcription: Transcription = strawberry.field(description="As it stands now.")
    created: bool = strawberry.field(
        description="False where this lecture had one of that model and language, done or under "
        "way; a FAILED one is queued again."
    )


RequestTranscriptionResult = Annotated[
    RequestTranscriptionPayload
    | InvalidInputError
    | NotFoundError
    | ConflictError
    | RateLimitedError,
    strawberry.union(
        "RequestTranscriptionResult",
        description="A ConflictError where the lecture has no audio (any more, or yet).",
    ),
]


@strawberry.type
class TranscriptionPayload:
    """The transcription as it stands now."""

    transcription: Transcription = strawberry.field(description="As it stands now.")


CancelTranscriptionResult = Annotated[
    TranscriptionPayload | NotFoundError | ConflictError,
    strawberry.union(
        "CancelTranscriptionResult", description="The transcription, or why it goes on."
    ),
]


@strawberry.type
class DeleteTranscriptionPayload:
    """The transcription and its text are gone."""

    transcription_id: strawberry.ID = strawberry.field(description="Its id.")


DeleteTranscriptionResult = Annotated[
    DeleteTranscriptionPayload | NotFoundError | ConflictError,
    strawberry.union(
        "DeleteTranscriptionResult",
        description="A ConflictError where someone else asked for it, admins excepted.",
    ),
]
