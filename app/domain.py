"""The words that every layer shares: states, stages and reasons.  No I/O, no imports of ours.

The values are what the database stores; the GraphQL enums carry the names.
"""

from enum import StrEnum


class LectureStatus(StrEnum):
    """Where a lecture stands: pending -> downloading -> completed | failed."""

    PENDING = "pending"
    DOWNLOADING = "downloading"
    COMPLETED = "completed"
    FAILED = "failed"


class LectureSource(StrEnum):
    """Where a lecture is from."""

    LINK = "link"
    UPLOAD = "upload"


class DocumentStatus(StrEnum):
    """Where a document stands."""

    UPLOADED = "uploaded"
    FAILED = "failed"


class DownloadStage(StrEnum):
    """What the pipeline is doing while a lecture is DOWNLOADING."""

    RESOLVING = "resolving"
    FETCHING = "fetching"
    EXTRACTING = "extracting"


class LectureFailure(StrEnum):
    """Why a lecture FAILED; stable for clients to switch on."""

    LOGIN_REQUIRED = "login_required"
    SOURCE_NOT_FOUND = "source_not_found"
    NO_AUDIO = "no_audio"
    BLOCKED_URL = "blocked_url"
    TOO_LARGE = "too_large"
    TRUNCATED = "truncated"
    TIMEOUT = "timeout"
    NETWORK = "network"
    BLOCKED_CONTENT = "blocked_content"
    CANCELLED = "cancelled"
    INTERNAL = "internal"


class TranscriptionStatus(StrEnum):
    """Where a transcription stands: pending -> processing -> completed | failed."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


class TranscriptionSource(StrEnum):
    """Who wrote the words down."""

    CAPTIONS = "captions"
    SPEECH_RECOGNITION = "speech_recognition"


class TranscriptionFailure(StrEnum):
    """Why a transcription FAILED; stable for clients to switch on."""

    NO_AUDIO = "no_audio"
    BAD_MODEL = "bad_model"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    INTERNAL = "internal"


class TranscriptionWarning(StrEnum):
    """What a reader should know of a COMPLETED transcription."""

    LOW_CONFIDENCE = "low_confidence"
    LANGUAGE_UNCERTAIN = "language_uncertain"
    PARTIAL_AUDIO = "partial_audio"


class SummarySource(StrEnum):
    """Who wrote a summary."""

    MODEL = "model"
    EXTRACT = "extract"


class TranscriptFormat(StrEnum):
    """The forms that a transcript is exported in."""

    SRT = "srt"
    VTT = "vtt"
    TXT = "txt"
    JSON = "json"


class SearchMode(StrEnum):
    """How a query is compared with what is there."""

    HYBRID = "hybrid"
    SEMANTIC = "semantic"
    KEYWORD = "keyword"


class AssignedBy(StrEnum):
    """Who has said that a transcription is about a topic."""

    USER = "user"
    AI = "ai"


class TopicReview(StrEnum):
    """What a topic's user says of an assignment."""

    UNREVIEWED = "unreviewed"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


class EventKind(StrEnum):
    """What happened to an item of a user's."""

    LINKED = "linked"
    CHANGED = "changed"
    REMOVED = "removed"


class FieldErrorCode(StrEnum):
    """What is wrong with an input field, for clients that have words of their own."""

    REQUIRED = "required"
    TOO_LONG = "too_long"
    TOO_SHORT = "too_short"
    TOO_MANY = "too_many"
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    UNSUPPORTED = "unsupported"
    NOT_FOUND = "not_found"
    QUOTA = "quota"


class JobState(StrEnum):
    """Where a ledger row stands; queued and running are the open ones."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobKind(StrEnum):
    """Every kind of background work."""

    DOWNLOAD_LECTURE = "download_lecture"
    COUNT_PAGES = "count_pages"
    TRANSCRIBE = "transcribe"
    INDEX = "index"
    JUDGE_TOPICS = "judge_topics"
    SUMMARIZE = "summarize"
    SWEEP = "sweep"
