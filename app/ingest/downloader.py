"""`LectureDownloader` for Panopto recordings and for direct media links.

Which media is fetched: what the user gave (``stream_url``), else what DeliveryInfo offers, else the
link itself where it is media.
"""

import dataclasses
import math
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import httpx
import structlog

from app.domain import LectureFailure
from app.errors import IngestFailed, InvalidInput
from app.ingest.audio_ranges import AudioOptions, fetch_audio
from app.ingest.delivery import Delivery, ask_delivery, kind_of
from app.ingest.fetch import (
    PATIENCE,
    Patience,
    discard_part,
    fetch_file,
    has_part,
    require_media,
)
from app.ingest.guard import GuardedClient, content_type, origin_of
from app.ingest.hls import fetch_stream, open_stream
from app.ingest.panopto import recording_link
from app.ingest.protocols import (
    DownloadedSource,
    LectureRequest,
    MediaLocation,
    ReportProgress,
    ResolvedLecture,
    Segment,
    Tier,
)
from app.ingest.range_source import RangeSource, RangesRefused
from app.ingest.tracks import has_audio_track
from app.settings import Settings
from app.storage.protocol import LocalFiles

log = structlog.get_logger(__name__)

_MEDIA_EXTENSIONS = frozenset(
    {".mp4", ".m4a", ".m4v", ".mov", ".mp3", ".aac", ".webm", ".mkv", ".mka", ".ts"}
    | {".ogg", ".oga", ".opus", ".wav", ".flac"}
)
_HLS_TYPES = frozenset(
    {"application/vnd.apple.mpegurl", "application/x-mpegurl", "audio/mpegurl", "audio/x-mpegurl"}
)
_BINARY_TYPES = frozenset({"application/octet-stream", "binary/octet-stream", "application/mp4"})


class PanoptoDownloader:
    """Fetches one lecture's media; safe for use by any number of tasks."""

    def __init__(
        self,
        client: GuardedClient,
        *,
        panopto_hosts: tuple[str, ...] = (),
        max_source_bytes: int,
        patience: Patience = PATIENCE,
    ) -> None:
        self._client = client
        self._panopto_hosts = panopto_hosts
        self._max_source_bytes = max_source_bytes
        self._patience = patience

    @classmethod
    def from_settings(cls, settings: Settings) -> "PanoptoDownloader":
        """Return a downloader with a client of its own; `close` ends both."""
        return cls(
            GuardedClient(settings.fetch_allowed_private_hosts),
            panopto_hosts=settings.panopto_hosts,
            max_source_bytes=settings.max_source_bytes,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()

    async def resolve(self, request: LectureRequest) -> ResolvedLecture:
        """Ask the source what and where the recording is.

        With a stream URL, DeliveryInfo adds title and duration where it answers, and its failure
        changes nothing.
        """
        if request.stream_url is None:
            return await self._resolve_link(request)
        stream = MediaLocation(await self._kind(request.stream_url), request.stream_url)
        try:
            delivery = await self._delivery(request)
        except IngestFailed as error:
            log.info("delivery_info_failed", failure=error.failure.value)
            delivery = None
        if delivery is None:
            return ResolvedLecture(request.session_id, None, None, (stream,))
        edited = dataclasses.replace(stream, segments=_segments_of(stream.url, delivery))
        return _resolved(request, delivery, (edited,))

    async def download(
        self,
        lecture: ResolvedLecture,
        scratch: LocalFiles,
        key_stem: str,
        report: ReportProgress,
    ) -> DownloadedSource:
        """Fetch the first of the lecture's media that can be had and has audio.

        A failure that passes by itself is raised at once; any other leads to the next medium, and
        is raised where there is none.
        """
        try:
            return await self._first_of(lecture, scratch, key_stem, report)
        finally:
            # What an attempt before left of a medium that was not taken this time.
            await discard_part(scratch, key_stem)

    async def _first_of(
        self,
        lecture: ResolvedLecture,
        scratch: LocalFiles,
        key_stem: str,
        report: ReportProgress,
    ) -> DownloadedSource:
        failures: list[IngestFailed] = []
        for choice, location in enumerate(lecture.media):
            try:
                source = await self._fetch(location, lecture, scratch, key_stem, report)
                await _require_audio(source, scratch)
            except IngestFailed as error:
                if error.transient:
                    raise
                log.info(
                    "medium_failed", choice=choice, kind=location.kind, reason=error.failure.value
                )
                failures.append(error)
                continue
            log.info(
                "medium_fetched",
                choice=choice,
                tier=source.tier.value,
                fetched_bytes=source.fetched_bytes,
                size_bytes=source.size_bytes,
            )
            return source
        raise failures[0] if failures else _no_recording()

    async def _resolve_link(self, request: LectureRequest) -> ResolvedLecture:
        delivery = await self._delivery(request)
        if delivery:
            return _resolved(request, delivery, delivery.media)
        location = MediaLocation(await self._kind(request.panopto_url), request.panopto_url)
        return ResolvedLecture(request.session_id, None, None, (location,))

    async def _delivery(self, request: LectureRequest) -> Delivery | None:
        try:
            link = recording_link(request.panopto_url, self._panopto_hosts)
        except InvalidInput:
            raise _no_recording() from None
        return await ask_delivery(self._client, link) if link else None

    async def _kind(self, url: str) -> str:
        """Tell a playlist from a file: by the extension, else by what the server says of it."""
        if origin_of(url) is None:
            raise _no_recording()
        if kind_of(url) == "hls":
            return "hls"
        if PurePosixPath(urlsplit(url).path.lower()).suffix in _MEDIA_EXTENSIONS:
            return "mp4"
        async with self._client.stream("GET", url) as response:
            return await _sniffed(response)

    async def _fetch(
        self,
        location: MediaLocation,
        lecture: ResolvedLecture,
        scratch: LocalFiles,
        key_stem: str,
        report: ReportProgress,
    ) -> DownloadedSource:
        if location.kind == "hls":
            return await self._fetch_hls(location, scratch, key_stem, report)
        duration = _duration(location.segments) or lecture.duration_seconds
        ranges = RangeSource(self._client, location, self._patience)
        try:
            if location.kind == "podcast":
                raise RangesRefused("sound_alone")
            return await self._fetch_ranges(ranges, location, duration, scratch, key_stem, report)
        except RangesRefused as refusal:
            log.info("audio_ranges_refused", reason=refusal.reason)
        stored = await fetch_file(
            self._client,
            location,
            scratch,
            key_stem,
            report,
            max_bytes=self._max_source_bytes,
            patience=self._patience,
            begun=ranges.begun,
        )
        tier = Tier.AUDIO_PODCAST if location.kind == "podcast" else Tier.WHOLE_FILE
        fetched = stored.fetched_bytes + ranges.fetched_bytes
        return DownloadedSource(
            stored.key, stored.size_bytes, duration, location.segments, tier, fetched
        )

    async def _fetch_ranges(
        self,
        ranges: RangeSource,
        location: MediaLocation,
        duration_seconds: float | None,
        scratch: LocalFiles,
        key_stem: str,
        report: ReportProgress,
    ) -> DownloadedSource:
        if await has_part(scratch, key_stem, location.url):
            raise RangesRefused("resumed")
        key = f"{key_stem}.mp4"
        options = AudioOptions(self._max_source_bytes, exact_start=bool(location.segments))
        audio = await fetch_audio(ranges, scratch, key, report, options)
        return DownloadedSource(
            key,
            audio.stored.size_bytes,
            duration_seconds,
            location.segments,
            Tier.AUDIO_RANGES,
            audio.fetched_bytes,
        )

    async def _fetch_hls(
        self, location: MediaLocation, scratch: LocalFiles, key_stem: str, report: ReportProgress
    ) -> DownloadedSource:
        stream = await open_stream(self._client, location)
        extension = "mp4" if stream.playlist.is_fragmented_mp4 else "ts"
        stored = await fetch_stream(
            self._client,
            stream,
            scratch,
            f"{key_stem}.{extension}",
            report,
            max_bytes=self._max_source_bytes,
            patience=self._patience,
        )
        duration = _duration(location.segments) or stream.playlist.duration_seconds
        tier = Tier.HLS_AUDIO if stream.is_rendition else Tier.HLS_VARIANT
        return DownloadedSource(
            stored.key, stored.size_bytes, duration, location.segments, tier, stored.size_bytes
        )


async def _require_audio(source: DownloadedSource, scratch: LocalFiles) -> None:
    """Raise NO_AUDIO, and leave nothing, where the file's index names no audio track."""
    if await has_audio_track(scratch.path_of(source.key)) is False:
        await scratch.delete_file(source.key)
        raise IngestFailed(LectureFailure.NO_AUDIO, "The recording has no audio.")


async def _sniffed(response: httpx.Response) -> str:
    media_type = content_type(response)
    if media_type in _HLS_TYPES:
        return "hls"
    require_media(response)
    if media_type.startswith(("video/", "audio/")):
        return "mp4"
    async for chunk in response.aiter_raw():
        if chunk.lstrip(b"\xef\xbb\xbf \r\n").startswith(b"#EXTM3U"):
            return "hls"
        if media_type in _BINARY_TYPES:
            return "mp4"
        break
    raise _no_recording()


def _resolved(
    request: LectureRequest, delivery: Delivery, media: tuple[MediaLocation, ...]
) -> ResolvedLecture:
    session_id = request.session_id or delivery.session_id
    return ResolvedLecture(session_id, delivery.title, delivery.duration_seconds, media)


def _segments_of(stream_url: str, delivery: Delivery) -> tuple[Segment, ...]:
    """Return how the tenant cuts the very stream that the user named; none where it is another."""
    for location in delivery.media:
        if _bare(location.url) == _bare(stream_url):
            return location.segments
    return ()


def _bare(url: str) -> tuple[str, str]:
    """Leave out the query: it carries signatures, which differ from answer to answer."""
    parts = urlsplit(url)
    return parts.netloc.lower(), parts.path


def _duration(segments: tuple[Segment, ...]) -> float:
    return math.fsum(segment.end_seconds - segment.start_seconds for segment in segments)


def _no_recording() -> IngestFailed:
    return IngestFailed(LectureFailure.SOURCE_NOT_FOUND, "No recording was found at the link.")
