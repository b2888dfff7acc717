"""`LectureDownloader`: the sources say what and where, this fetches it by the cheapest way."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

import structlog

from app.errors import IngestFailed
from app.ingest.captions import fetch_captions
from app.ingest.fetch.file import fetch_file, whole_file_of
from app.ingest.fetch.hls import fetch_stream
from app.ingest.fetch.hls_streams import HlsStream, NoPlaylist, open_streams
from app.ingest.fetch.part import begun_source, source_name
from app.ingest.fetch.ranges.audio import AudioOptions, audio_ranges_of, fetch_audio
from app.ingest.fetch.ranges.source import RangeSource, RangesRefused
from app.ingest.model import (
    Attempt,
    DownloadedSource,
    Edit,
    LectureRequest,
    LectureSource,
    MediaLocation,
    ResolvedLecture,
    Tier,
)
from app.ingest.net.guard import GuardedClient
from app.ingest.net.retries import PATIENCE, Patience
from app.ingest.net.sniffing import form_of_file, media_chunks
from app.ingest.sources.registry import resolve_by, sources_of
from app.settings import Settings
from app.transcript.model import Transcript

log = structlog.get_logger(__name__)


class MediaDownloader:
    """Fetches lectures of Panopto tenants and of all other sources; safe for any number of tasks.

    ``sources`` are asked in their order; left out, they are Panopto and direct media links.
    Without ``captions`` none are ever fetched.
    """

    def __init__(
        self,
        client: GuardedClient,
        *,
        panopto_hosts: tuple[str, ...] = (),
        max_source_bytes: int,
        patience: Patience = PATIENCE,
        sources: Sequence[LectureSource] | None = None,
        captions: bool = True,
    ) -> None:
        self._client = client
        self._captions = captions
        if sources is None:
            sources = sources_of(client, panopto_hosts=panopto_hosts)
        self._sources = tuple(sources)
        self._max_source_bytes = max_source_bytes
        self._patience = patience

    @classmethod
    def from_settings(cls, settings: Settings) -> "MediaDownloader":
        """Return a downloader with a client of its own; `close` ends both."""
        client = GuardedClient(settings.fetch_allowed_private_hosts)
        return cls(
            client,
            max_source_bytes=settings.max_source_bytes,
            sources=sources_of(
                client,
                panopto_hosts=settings.panopto_hosts,
                extractors=settings.sources,
                captions=settings.captions,
            ),
            captions=settings.captions,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()

    async def resolve(self, request: LectureRequest) -> ResolvedLecture:
        """Ask the sources, one after the other, what and where the recording is."""
        return await resolve_by(self._sources, request)

    async def require_reachable(self, location: MediaLocation) -> None:
        """Ask for the first bytes; raise `IngestFailed` where they are none of a medium."""
        client = self._client.sending(location.headers)
        async with (
            client.stream("GET", location.url) as response,
            aclosing(media_chunks(response)) as chunks,
        ):
            await anext(chunks)

    async def download(
        self, lecture: ResolvedLecture, location: MediaLocation, attempt: Attempt
    ) -> DownloadedSource:
        """Fetch one of the lecture's media; whether it has sound the extractor tells."""
        source = await self._fetch(location, lecture, attempt)
        log.info(
            "medium_fetched",
            tier=source.tier.value,
            fetched_bytes=source.fetched_bytes,
            size_bytes=source.size_bytes,
        )
        return source

    async def captions_of(
        self, lecture: ResolvedLecture, duration_seconds: float
    ) -> Transcript | None:
        """Return the source's captions for audio of that length, unless they are turned off."""
        if not self._captions:
            return None
        return await fetch_captions(self._client, lecture.captions, duration_seconds)

    async def _fetch(
        self, location: MediaLocation, lecture: ResolvedLecture, attempt: Attempt
    ) -> DownloadedSource:
        """Fetch it as what it is said to be or, where its bytes say another thing, as that."""
        # A playlist that was taken for a file has shown what it is to the attempt before.
        begun = await begun_source(attempt)
        if location.kind == "hls" or begun == source_name("hls", location.url):
            try:
                return await self._fetch_hls(location, attempt)
            except NoPlaylist:
                location = replace(location, kind="mp4")
        source = await self._fetch_file(location, lecture, attempt)
        if await form_of_file(attempt.scratch.path_of(source.key)) == "playlist":
            await attempt.scratch.delete_file(source.key)
            return await self._fetch_hls(replace(location, kind="hls"), attempt)
        return source

    async def _fetch_file(
        self, location: MediaLocation, lecture: ResolvedLecture, attempt: Attempt
    ) -> DownloadedSource:
        client = self._client.sending(location.headers)
        duration = _duration(location.edits) or lecture.duration_seconds
        ranges = RangeSource(client, location, self._patience)
        try:
            if location.kind == "podcast":
                raise RangesRefused("sound_alone")
            if await _has_ranges_failed(location, attempt):
                raise RangesRefused("failed_before")
            return await self._fetch_ranges(ranges, location, duration, attempt)
        except RangesRefused as refusal:
            log.info("audio_ranges_refused", reason=refusal.reason)
        stored = await fetch_file(
            client,
            location,
            attempt,
            max_bytes=self._max_source_bytes - attempt.had_bytes,
            patience=self._patience,
            begun=ranges.begun,
        )
        tier = Tier.AUDIO_PODCAST if location.kind == "podcast" else Tier.WHOLE_FILE
        fetched = stored.fetched_bytes + ranges.fetched_bytes
        return DownloadedSource(
            stored.key,
            stored.size_bytes,
            duration,
            location.edits,
            tier,
            fetched,
            has_changed=stored.has_changed or ranges.has_changed,
        )

    async def _fetch_ranges(
        self,
        ranges: RangeSource,
        location: MediaLocation,
        duration_seconds: float | None,
        attempt: Attempt,
    ) -> DownloadedSource:
        if await begun_source(attempt) == whole_file_of(location):
            raise RangesRefused("resumed")
        max_bytes = self._max_source_bytes - attempt.had_bytes
        options = AudioOptions(max_bytes, exact_start=bool(location.edits))
        audio = await fetch_audio(ranges, attempt, options)
        return DownloadedSource(
            audio.key,
            audio.size_bytes,
            duration_seconds,
            location.edits,
            Tier.AUDIO_RANGES,
            audio.fetched_bytes,
        )

    async def _fetch_hls(self, location: MediaLocation, attempt: Attempt) -> DownloadedSource:
        """Fetch the first stream that can be had and has audio; raise what failed the best one."""
        client = self._client.sending(location.headers)
        failures: list[IngestFailed] = []
        async with aclosing(open_streams(client, location)) as streams:
            async for stream in streams:
                if isinstance(stream, IngestFailed):
                    failures.append(stream)
                    continue
                try:
                    source = await self._fetch_stream(client, stream, attempt)
                except IngestFailed as error:
                    if error.transient:
                        raise
                    log.info("hls_stream_failed", reason=error.failure.value)
                    failures.append(error)
                    continue
                return source
        raise failures[0]

    async def _fetch_stream(
        self, client: GuardedClient, stream: HlsStream, attempt: Attempt
    ) -> DownloadedSource:
        fetched = await fetch_stream(
            client,
            stream,
            attempt,
            max_bytes=self._max_source_bytes - attempt.had_bytes,
            patience=self._patience,
        )
        edits = stream.location.edits
        return DownloadedSource(
            fetched.file.key,
            fetched.file.size_bytes,
            _duration(edits) or stream.playlist.duration_seconds,
            edits,
            Tier.HLS_AUDIO if stream.is_rendition else Tier.HLS_VARIANT,
            fetched.file.fetched_bytes,
            fetched.runs,
            slack_seconds=0.0 if edits else stream.playlist.slack_seconds,
        )


async def _has_ranges_failed(location: MediaLocation, attempt: Attempt) -> bool:
    """Whether the next attempt takes the whole file: after a failure that left no part to go on
    with, or after two.
    """
    if attempt.failed_before != 1:
        return attempt.failed_before > 1
    return await begun_source(attempt) != audio_ranges_of(location)


def _duration(edits: tuple[Edit, ...]) -> float:
    end = 0.0
    for edit in edits:
        start = end if edit.at_seconds is None else edit.at_seconds
        end = start + edit.end_seconds - edit.start_seconds
    return end
