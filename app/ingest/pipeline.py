"""The pipeline: a downloader and an extractor joined, with the checks between them.

    resolve -> (fetch into scratch -> extract -> judge the duration), medium after medium
                                                     -> (the caller stores it)

It knows no rows: progress goes to a callback, the audio to whoever entered the context.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import structlog

from app.cancellation import in_thread
from app.domain import DownloadStage, LectureFailure
from app.errors import IngestFailed
from app.ingest.failures import no_recording
from app.ingest.fetch.part import begun_source, is_of, tidied
from app.ingest.model import (
    Attempt,
    AudioExtractor,
    DownloadedSource,
    ExtractedAudio,
    LectureDownloader,
    LectureRequest,
    MediaLocation,
    Progress,
    ReportProgress,
    ResolvedLecture,
    RunStart,
)
from app.storage.disk import errors_of_writing
from app.transcript.model import Transcript

TOLERANCE_SECONDS = 1.0
TOLERANCE_RATIO = 0.005
_TELLING = (LectureFailure.TRUNCATED, LectureFailure.LOGIN_REQUIRED)

log = structlog.get_logger(__name__)

T = TypeVar("T")


class AudioPipeline:
    """From a lecture's link to an ``.m4a`` in scratch storage; nothing stays there afterwards."""

    def __init__(
        self,
        downloader: LectureDownloader,
        extractor: AudioExtractor,
        extract_timeout_seconds: float,
    ) -> None:
        self._downloader = downloader
        self._extractor = extractor
        self._extract_timeout_seconds = extract_timeout_seconds

    async def resolve(self, request: LectureRequest, report: ReportProgress) -> ResolvedLecture:
        """Ask the source what the recording is."""
        await report(Progress(DownloadStage.RESOLVING))
        return await self._downloader.resolve(request)

    async def captions_of(
        self, lecture: ResolvedLecture, duration_seconds: float
    ) -> Transcript | None:
        """Return the source's captions for audio of that length; whatever goes wrong, None."""
        return await self._downloader.captions_of(lecture, duration_seconds)

    @asynccontextmanager
    async def audio_of(
        self, lecture: ResolvedLecture, attempt: Attempt
    ) -> AsyncIterator[ExtractedAudio]:
        """Fetch and extract; the audio file lives until the context ends, unless it was moved.

        Raises `IngestFailed`, `NotReadyYet` or `StorageError`; `ChildKilled` and `OSError` are
        this machine's trouble.
        """
        audio_key = f"{attempt.stem}.m4a"

        async def whole_audio_of(location: MediaLocation) -> ExtractedAudio:
            source = await self._fetch(lecture, location, attempt)
            audio = await self._extract(source, audio_key, attempt)
            require_whole(audio, source, lecture)
            return audio

        try:
            yield await from_first_medium(lecture, attempt, whole_audio_of)
        finally:
            await attempt.scratch.delete_files([audio_key, *_keys_of_joining(attempt.stem)])

    @asynccontextmanager
    async def audio_in(self, source: Path, attempt: Attempt) -> AsyncIterator[ExtractedAudio]:
        """Extract the sound of a file that is here; the audio lives as that of `audio_of`."""
        target = attempt.scratch.path_of(f"{attempt.stem}.m4a")
        size_bytes = (await asyncio.to_thread(source.stat)).st_size
        await attempt.report(Progress(DownloadStage.EXTRACTING, size_bytes, size_bytes))
        try:
            yield await self._extractor.extract(
                source, target, timeout_seconds=self._extract_timeout_seconds
            )
        finally:
            await attempt.scratch.delete_file(f"{attempt.stem}.m4a")

    async def _fetch(
        self, lecture: ResolvedLecture, location: MediaLocation, attempt: Attempt
    ) -> DownloadedSource:
        """Fetch the medium; those that follow each other as the runs of one file of their sound."""
        if not location.then:
            return await self._downloader.download(lecture, location, attempt)
        keys = joined_key, piece_key = _keys_of_joining(attempt.stem)
        await attempt.scratch.delete_files(keys)  # Of another medium, which was no good.
        alone = replace(lecture, duration_seconds=None)
        joined, runs = attempt.scratch.path_of(joined_key), []
        for start_seconds, piece in ((0.0, location), *location.then):
            source = await self._downloader.download(alone, piece, attempt)
            audio = await self._extract(source, piece_key, attempt)
            require_whole(audio, source, alone)
            first_byte = await in_thread(_append, audio.path, joined)
            runs.append(RunStart(first_byte, start_seconds))
            attempt = replace(attempt, had_bytes=attempt.had_bytes + source.size_bytes)
        size_bytes = joined.stat().st_size
        return DownloadedSource(joined_key, size_bytes, None, runs=tuple(runs[1:]))

    async def _extract(
        self, source: DownloadedSource, audio_key: str, attempt: Attempt
    ) -> ExtractedAudio:
        try:
            size_bytes = source.size_bytes
            await attempt.report(Progress(DownloadStage.EXTRACTING, size_bytes, size_bytes))
            return await self._extractor.extract(
                attempt.scratch.path_of(source.key),
                attempt.scratch.path_of(audio_key),
                source.edits,
                runs=source.runs,
                timeout_seconds=self._extract_timeout_seconds,
            )
        finally:
            await attempt.scratch.delete_file(source.key)


def _keys_of_joining(stem: str) -> tuple[str, str]:
    """Return the keys of what media that follow each other are joined in, and of one's sound."""
    return f"{stem}.joined.mp4", f"{stem}.piece.m4a"


def _append(piece: Path, joined: Path) -> int:
    """Append the file, and return where its first byte is."""
    with errors_of_writing(), piece.open("rb") as content, joined.open("ab") as target:
        first_byte = target.tell()
        shutil.copyfileobj(content, target)
        return first_byte


async def from_first_medium(
    lecture: ResolvedLecture, attempt: Attempt, get: Callable[[MediaLocation], Awaitable[T]]
) -> T:
    """Return what ``get`` makes of the first of the lecture's media that it can make it of.

    The medium that an attempt before was in the middle of comes first.  A failure that passes by
    itself is raised at once where it is the first attempt's, or has left a part that the next one
    goes on with; any other, and in the last attempt every one, leads to the next medium.  Where
    none is left, the failure that tells most is raised, one that passes before others while there
    are attempts.

    Where it is cancelled or the failure passes by itself, the part stays for the next attempt; on
    any other way out, success included, no part is left, not even an earlier attempt's.
    """
    failures: list[IngestFailed] = []
    async with tidied(attempt):
        begun = await begun_source(attempt)
        for location in sorted(
            lecture.media, key=lambda each: begun is None or not is_of(begun, each.url)
        ):
            try:
                return await get(location)
            except IngestFailed as error:
                if error.transient and not attempt.is_last:
                    left = await begun_source(attempt)
                    has_part = left is not None and is_of(left, location.url)
                    if has_part or not attempt.failed_before:
                        raise
                log.info("medium_failed", kind=location.kind, reason=error.failure.value)
                failures.append(error)
        passing = [each for each in failures if each.transient and not attempt.is_last]
        raise _most_telling(passing or failures)


def _most_telling(failures: list[IngestFailed]) -> IngestFailed:
    """Return what people can do most with: had in part, to be signed in for, in trouble for now.

    Else it is that of the preferred medium.
    """

    def rank(error: IngestFailed) -> int:
        if error.failure in _TELLING:
            return _TELLING.index(error.failure)
        return len(_TELLING) + (not error.transient)

    return min(failures, key=rank) if failures else no_recording()


def require_whole(
    audio: ExtractedAudio, source: DownloadedSource, lecture: ResolvedLecture
) -> None:
    """Raise `IngestFailed` where the audio's duration is not the recording's.

    They agree within 1 s or 0.5 %, whichever is more.  What the recording's page tells is right;
    what its medium tells of itself is asked only where the page tells nothing, and may be off by
    what it has rounded besides.  Where the medium changed while it was fetched, the failure passes:
    the source, asked again, may tell of the one that it has now.
    """
    expected, slack_seconds = lecture.duration_seconds, 0.0
    if not expected:
        expected, slack_seconds = source.duration_seconds, source.slack_seconds
    if expected is None:
        return
    tolerance = max(TOLERANCE_SECONDS, TOLERANCE_RATIO * expected) + slack_seconds
    if abs(audio.duration_seconds - expected) > tolerance:
        raise IngestFailed(
            LectureFailure.TRUNCATED,
            f"The recording lasts {expected:.0f} s, but {audio.duration_seconds:.0f} s of "
            "audio were found.",
            transient=source.has_changed,
        )
