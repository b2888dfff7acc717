"""The seams of the pipeline: what a downloader and an extractor promise each other.

A further place where recordings are (YouTube, Drive, …) is another `LectureSource`; a further
codec path is another `AudioExtractor`.  None of them knows rows, jobs or GraphQL.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol
from uuid import UUID

from app.domain import DownloadStage
from app.storage.protocol import LocalFiles
from app.transcript.model import Transcript


@dataclass(frozen=True, slots=True)
class SourceIdentity:
    """Which recording a URL names, whatever its spelling.

    ``session_id`` is the Panopto session GUID in lower case, or None where the URL does not tell
    (a ``tid`` link, or no Panopto URL); ``canonical_url`` is then the identity.
    """

    canonical_url: str
    session_id: str | None
    host: str


@dataclass(frozen=True, slots=True)
class LectureRequest:
    """What a worker needs to find one lecture."""

    lecture_id: UUID
    panopto_url: str
    session_id: str | None
    stream_url: str | None


@dataclass(frozen=True, slots=True)
class Edit:
    """A stretch of the source that the recording keeps: start and end in seconds.

    ``at_seconds`` is where it begins in the recording; None is right behind the one before.
    """

    start_seconds: float
    end_seconds: float
    at_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class RunStart:
    """Where a fetched file goes on with clocks and codec settings of its own.

    Such is an HLS discontinuity: nothing from ``first_byte`` on may be read as the continuation of
    what is before it.  ``start_seconds`` is its place on the source's timeline, off by no more than
    ``slack_seconds`` where the source rounds.
    """

    first_byte: int
    start_seconds: float
    slack_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ResolvedLecture:
    """What the source says of the recording, before a byte of media is fetched.

    ``duration_seconds`` is the edited recording's; None where the source tells nothing (a bare
    stream URL).  ``session_id`` is known here even for a ``tid`` link; with a stream URL it is what
    the audio will be confirmed to be once its duration was judged, None where nobody can tell.
    ``media``: where to fetch, in order of preference; ``captions`` likewise, none where the source
    has none.  ``platform`` is the site's name in lower case.
    """

    session_id: str | None
    title: str | None
    duration_seconds: float | None
    media: tuple["MediaLocation", ...]
    captions: tuple["CaptionSource", ...] = ()
    platform: str | None = None


@dataclass(frozen=True, slots=True)
class CaptionSource:
    """Where the recording's captions are in one language, a BCP 47 tag or None where unknown.

    ``cookie_header`` and ``headers`` are as those of `MediaLocation`.  ``edits`` (empty: none) are
    the stretches of the captions' clock that the recording keeps, each with its place.
    """

    url: str
    language: str | None
    edits: tuple[Edit, ...] = ()
    cookie_header: str | None = field(default=None, repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class MediaLocation:
    """One way to the recording's media.

    ``kind`` is ``mp4`` (one file by HTTP), ``podcast`` (one file of sound alone) or ``hls`` (a
    playlist): a hint, since the bytes tell.  ``cookie_header`` goes to the exact host of the URL
    alone, ``headers`` (name, value) with every request for the medium: nothing secret may be in
    them.  ``edits`` (empty: all of it) cut a raw stream to the edit.  ``then`` are the media
    that go on where it ends, each behind the second of the recording at which it begins: together
    they are the recording.
    """

    kind: str
    url: str
    edits: tuple[Edit, ...] = ()
    cookie_header: str | None = field(default=None, repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    then: tuple[tuple[float, "MediaLocation"], ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is; ``total_bytes`` is None while the source has not told."""

    stage: DownloadStage
    downloaded_bytes: int = 0
    total_bytes: int | None = None


ReportProgress = Callable[[Progress], Awaitable[None]]
"""Called as often as the caller likes; the receiver throttles.  Raises `LeaseLost` to stop."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a lecture's audio: where its files lie, and who is told how far it is.

    ``stem`` begins the keys of all its temporary objects in ``scratch``.  So many attempts have
    ``failed_before`` it: after one, less is asked of the source at once.  ``had_bytes`` is the size
    of those media that follow each other and were fetched before: MAX_SOURCE_BYTES is for all of
    them together.
    """

    scratch: LocalFiles
    stem: str
    report: ReportProgress
    failed_before: int = 0
    is_last: bool = False
    had_bytes: int = 0


class Tier(StrEnum):
    """The ways to a recording's audio, cheapest first."""

    AUDIO_PODCAST = "audio_podcast"
    HLS_AUDIO = "hls_audio_rendition"
    HLS_VARIANT = "hls_variant"
    AUDIO_RANGES = "audio_ranges"
    WHOLE_FILE = "whole_file"


@dataclass(frozen=True, slots=True)
class DownloadedSource:
    """The fetched media as an object of the scratch store.

    ``duration_seconds`` is what the source (a playlist, DeliveryInfo) says the media's recording
    lasts, off by no more than ``slack_seconds``; None where nothing was said.  ``edits`` are
    still to be cut out of it; ``runs`` are all but the first.  ``tier`` is the way that it was had,
    ``fetched_bytes`` what this attempt took from the source for it.  ``has_changed``: it may be
    another medium than the one that the source has told of.
    """

    key: str
    size_bytes: int
    duration_seconds: float | None
    edits: tuple[Edit, ...] = ()
    tier: Tier = Tier.WHOLE_FILE
    fetched_bytes: int = 0
    runs: tuple[RunStart, ...] = ()
    has_changed: bool = False
    slack_seconds: float = 0.0


class LectureSource(Protocol):
    """Says what and where the recording behind a link is; fetches none of its media."""

    async def resolve(self, request: LectureRequest) -> ResolvedLecture | None:
        """Ask for the recording; None leaves the link to the next source.

        Raises `IngestFailed` or `NotReadyYet` where the link is this source's and cannot be had.
        """
        ...


class LectureDownloader(Protocol):
    """From a link to media in the scratch store.

    Raises `IngestFailed` or `NotReadyYet`; `ChildKilled` and `OSError` are this machine's trouble.
    """

    async def resolve(self, request: LectureRequest) -> ResolvedLecture:
        """Ask the source what and where the recording is."""
        ...

    async def download(
        self, lecture: ResolvedLecture, location: MediaLocation, attempt: Attempt
    ) -> DownloadedSource:
        """Fetch one of the lecture's media into ``{attempt.stem}.{extension}``.

        Where it is cancelled or the failure passes by itself, the part stays for the next attempt;
        on any other error nothing of it is left.
        """
        ...

    async def captions_of(
        self, lecture: ResolvedLecture, duration_seconds: float
    ) -> Transcript | None:
        """Return the source's captions for audio of that length; whatever goes wrong, None."""
        ...


@dataclass(frozen=True, slots=True)
class ExtractedAudio:
    """An ``.m4a`` on disk: AAC, faststart; its duration is the audio track's own, in seconds."""

    path: Path
    size_bytes: int
    duration_seconds: float


class AudioExtractor(Protocol):
    """From a media file to an ``.m4a``.

    Raises `IngestFailed` with NO_AUDIO, TRUNCATED, …; `ChildKilled` is this machine's trouble.
    """

    async def extract(
        self,
        source: Path,
        target: Path,
        edits: tuple[Edit, ...] = (),
        *,
        runs: tuple[RunStart, ...] = (),
        timeout_seconds: float,
    ) -> ExtractedAudio:
        """Write the audio track to ``target``; on an error or cancellation nothing is left."""
        ...
