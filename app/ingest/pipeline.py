"""The pipeline: a downloader and an extractor joined, with the checks between them.

    resolve -> fetch into scratch -> extract -> judge the duration -> (the caller stores it)

It knows no rows: progress goes to a callback, the audio to whoever entered the context.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.domain import DownloadStage, LectureFailure
from app.errors import IngestFailed
from app.ingest.protocols import (
    AudioExtractor,
    DownloadedSource,
    ExtractedAudio,
    LectureDownloader,
    LectureRequest,
    Progress,
    ReportProgress,
    ResolvedLecture,
)
from app.storage.protocol import LocalFiles

TOLERANCE_SECONDS = 1.0
TOLERANCE_RATIO = 0.005


class AudioPipeline:
    """From a lecture's link to an ``.m4a`` in scratch storage; nothing stays there afterwards."""

    def __init__(
        self,
        downloader: LectureDownloader,
        extractor: AudioExtractor,
        scratch: LocalFiles,
        extract_timeout_seconds: float,
    ) -> None:
        self._downloader = downloader
        self._extractor = extractor
        self._scratch = scratch
        self._extract_timeout_seconds = extract_timeout_seconds

    async def resolve(self, request: LectureRequest, report: ReportProgress) -> ResolvedLecture:
        """Ask the source what the recording is."""
        await report(Progress(DownloadStage.RESOLVING))
        return await self._downloader.resolve(request)

    @asynccontextmanager
    async def audio_of(
        self, lecture: ResolvedLecture, stem: str, report: ReportProgress
    ) -> AsyncIterator[ExtractedAudio]:
        """Fetch and extract; the audio file lives until the context ends, unless it was moved.

        ``stem`` starts the keys of all temporary objects.  Raises `IngestFailed`, `NotReadyYet`
        or `StorageError`; `ChildKilled` and `OSError` are this machine's trouble.
        """
        audio_key = f"{stem}.m4a"
        try:
            audio = await self._fetch_and_extract(lecture, stem, audio_key, report)
            yield audio
        finally:
            await self._scratch.delete_file(audio_key)

    async def _fetch_and_extract(
        self, lecture: ResolvedLecture, stem: str, audio_key: str, report: ReportProgress
    ) -> ExtractedAudio:
        source = await self._downloader.download(lecture, self._scratch, stem, report)
        try:
            await report(Progress(DownloadStage.EXTRACTING, source.size_bytes, source.size_bytes))
            audio = await self._extractor.extract(
                self._scratch.path_of(source.key),
                self._scratch.path_of(audio_key),
                source.segments,
                runs=source.runs,
                timeout_seconds=self._extract_timeout_seconds,
            )
        finally:
            await self._scratch.delete_file(source.key)
        require_whole(audio, source, lecture)
        return audio


def require_whole(
    audio: ExtractedAudio, source: DownloadedSource, lecture: ResolvedLecture
) -> None:
    """Raise `IngestFailed` where the audio's duration is not the recording's.

    They agree within 1 s or 0.5 %, whichever is more.  Where the medium changed while it was
    fetched, the failure passes: the source, asked again, may tell of the one that it has now.
    """
    for expected in (source.duration_seconds, lecture.duration_seconds):
        if expected is None:
            continue
        tolerance = max(TOLERANCE_SECONDS, TOLERANCE_RATIO * expected)
        if abs(audio.duration_seconds - expected) > tolerance:
            raise IngestFailed(
                LectureFailure.TRUNCATED,
                f"The recording lasts {expected:.0f} s, but {audio.duration_seconds:.0f} s of "
                "audio were found.",
                transient=source.has_changed,
            )
