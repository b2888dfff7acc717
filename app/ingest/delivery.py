"""What a Panopto tenant says of a recording: DeliveryInfo, and the media that it offers.

The answer's fields are those that third-party clients read; every one may be missing or null.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode, urljoin, urlsplit

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from app.domain import LectureFailure
from app.errors import IngestFailed, NotReadyYet
from app.ingest.guard import FetchedBody, GuardedClient, origin_of
from app.ingest.http_failures import login_required, looks_like_login
from app.ingest.panopto import RecordingLink, guid
from app.ingest.protocols import MediaLocation, Segment
from app.ingest.titles import printable_title

_PATH = "/Panopto/Pages/Viewer/DeliveryInfo.aspx"
_FORM = {
    "responseType": "json",
    "invocationId": "",
    "isEmbed": "true",
    "isLiveNotes": "false",
    "refreshAuthCookie": "true",
    "isActiveBroadcast": "false",
    "isEditing": "false",
    "isKollectiveAgentInstalled": "false",
}
_MAX_ANSWER_BYTES = 8 * 1024 * 1024
_LOGIN_REQUIRED = 2
_NOT_ALLOWED = 405
# The microphone is recorded with the camera; slides may be silent.
_TAG_ORDER = {"AUDIO": 0, "DV": 1, "SCREEN": 3, "OBJECT": 4}
_UNKNOWN_TAG = 2
_SILENT_TAGS = frozenset({"SCREEN", "OBJECT"})
_SAME_SECONDS = 0.05
_ROOM_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """A recording as its tenant describes it; ``media`` is in order of preference."""

    session_id: str | None
    title: str | None
    duration_seconds: float | None
    media: tuple[MediaLocation, ...]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


def _whole_url(url: str | None) -> str | None:
    """Drop what no URL parser accepts, so that one broken stream does not cost the others."""
    try:
        return url if url and urlsplit(url) else None
    except ValueError:
        return None


_Url = Annotated[str | None, AfterValidator(_whole_url)]


class _RelativeSegment(_Wire):
    start: float = Field(alias="Start")
    end: float = Field(alias="End")
    relative_start: float | None = Field(alias="RelativeStart", default=None)


class _Stream(_Wire):
    tag: str | None = Field(alias="Tag", default=None)
    stream_url: _Url = Field(alias="StreamUrl", default=None)
    http_url: _Url = Field(alias="StreamHttpUrl", default=None)
    file_type: str | None = Field(alias="ViewerMediaFileTypeName", default=None)
    relative_start: float | None = Field(alias="RelativeStart", default=None)
    relative_end: float | None = Field(alias="RelativeEnd", default=None)
    relative_segments: tuple[_RelativeSegment, ...] | None = Field(
        alias="RelativeSegments", default=None
    )


class _Session(_Wire):
    public_id: str | None = Field(alias="PublicID", default=None)
    name: str | None = Field(alias="SessionName", default=None)
    duration: float | None = Field(alias="Duration", default=None, ge=0)
    is_live: bool | None = Field(alias="IsActiveBroadcast", default=None)
    viewer_encoded: bool | None = Field(alias="IsViewerEncodeComplete", default=None)
    audio_podcast_encoded: bool | None = Field(alias="IsAudioPodcastEncodeComplete", default=None)
    purged: bool | None = Field(alias="IsPurgedEncode", default=None)
    streams: tuple[_Stream, ...] | None = Field(alias="Streams", default=None)
    podcasts: tuple[_Stream, ...] | None = Field(alias="PodcastStreams", default=None)
    podcast_encoded: bool | None = Field(alias="IsPodcastEncodeComplete", default=None)


class _Answer(_Wire):
    error_code: int | None = Field(alias="ErrorCode", default=None)
    session_id: str | None = Field(alias="SessionId", default=None)
    download_url: _Url = Field(alias="DownloadUrl", default=None)
    session: _Session | None = Field(alias="Delivery", default=None)


async def ask_delivery(client: GuardedClient, link: RecordingLink) -> Delivery:
    """Ask the tenant for the recording.

    Raises `NotReadyYet` while it is live or being encoded, and `IngestFailed`: LOGIN_REQUIRED, or
    SOURCE_NOT_FOUND for any other refusal.
    """
    fetched = await _fetch(client, link)
    answer = _read(fetched)
    if answer.error_code == _LOGIN_REQUIRED:
        raise login_required()
    if answer.error_code or answer.session is None or answer.session.purged:
        raise _not_found()
    _require_ready(answer.session)
    # Who answered may be another than was asked: https for http, or the tenant's newer name.
    tenant = dataclasses.replace(link, base_url=origin_of(fetched.url) or link.base_url)
    media = tuple(_Media(tenant, answer, answer.session, _cookie_header(fetched)).in_order())
    if not media:
        raise _nothing_to_play(answer.session)
    session_id = link.session_id or guid(answer.session.public_id or answer.session_id or "")
    title = printable_title(answer.session.name)
    return Delivery(session_id, title, answer.session.duration or None, media)


def kind_of(url: str, file_type: str | None = None) -> str:
    """Return ``hls`` or ``mp4`` (any single file) by what is told, else by the URL's extension."""
    if (file_type or "").lower() == "hls" or urlsplit(url).path.lower().endswith(".m3u8"):
        return "hls"
    return "mp4"


async def _fetch(client: GuardedClient, link: RecordingLink) -> FetchedBody:
    """Ask by GET; a tenant that allows none is asked by POST."""
    url = link.base_url + _PATH
    identity = {"deliveryId": link.session_id} if link.session_id else {"tid": link.tid or ""}
    form = {**identity, **_FORM}
    fetched = await client.read(
        "GET", f"{url}?{urlencode(form)}", max_bytes=_MAX_ANSWER_BYTES, tolerate=(_NOT_ALLOWED,)
    )
    if fetched.status != _NOT_ALLOWED:
        return fetched
    return await client.read("POST", url, max_bytes=_MAX_ANSWER_BYTES, data=form)


def _read(fetched: FetchedBody) -> _Answer:
    try:
        content: Any = orjson.loads(fetched.body)
        unwrapped = content.get("d", content) if isinstance(content, dict) else content
        return _Answer.model_validate(unwrapped)
    except (orjson.JSONDecodeError, ValidationError):
        failure = login_required() if looks_like_login(fetched.url) else _not_found()
        raise failure from None


def _require_ready(session: _Session) -> None:
    if session.is_live:
        raise NotReadyYet("The recording is still live.")
    if session.viewer_encoded is False:
        raise NotReadyYet("The recording is still being encoded.")


def _nothing_to_play(session: _Session) -> IngestFailed | NotReadyYet:
    if session.podcast_encoded is False or session.audio_podcast_encoded is False:
        return NotReadyYet("The recording is still being encoded.")
    return _not_found()


def _not_found() -> IngestFailed:
    return IngestFailed(LectureFailure.SOURCE_NOT_FOUND, "Panopto does not have the recording.")


def _cookie_header(fetched: FetchedBody) -> str | None:
    """Return the cookies that the tenant set as a request sends them back, or None."""
    pairs = [cookie.partition(";")[0].strip() for cookie in fetched.set_cookies]
    return "; ".join(pair for pair in pairs if "=" in pair and pair.isprintable()) or None


@dataclass(frozen=True, slots=True)
class _Media:
    """The media of one answer, from the cheapest that surely has the voice to the last resort."""

    link: RecordingLink
    answer: _Answer
    session: _Session
    cookie_header: str | None

    def in_order(self) -> Iterator[MediaLocation]:
        """Yield each location once."""
        seen: set[str] = set()
        for location in self._candidates():
            if location.url not in seen and origin_of(location.url):
                seen.add(location.url)
                yield location

    def _candidates(self) -> Iterator[MediaLocation]:
        streams = sorted(self.session.streams or (), key=_tag_order)
        spoken = [stream for stream in streams if (stream.tag or "").upper() not in _SILENT_TAGS]
        silent = [stream for stream in streams if stream not in spoken]
        yield from self._audio_podcast()
        yield from self._of_kind("hls", spoken)
        yield from self._of_kind("hls", self.session.podcasts or ())
        yield from self._of_kind("mp4", self.session.podcasts or ())
        yield from self._of_kind("mp4", spoken)
        yield from self._of_kind("hls", silent)
        yield from self._of_kind("mp4", silent)
        if self.answer.download_url:
            yield self._at("mp4", self.answer.download_url)

    def _audio_podcast(self) -> Iterator[MediaLocation]:
        """Yield the podcast with the sound alone; the tenant serves it to its own cookie only."""
        session_id = self.link.session_id or guid(self.session.public_id or "")
        if self.session.audio_podcast_encoded and self.cookie_header and session_id:
            path = f"/Panopto/Podcast/Download/{session_id}.mp4?mediaTargetType=audioPodcast"
            yield self._at("podcast", path)

    def _of_kind(self, kind: str, streams: Iterable[_Stream]) -> Iterator[MediaLocation]:
        for stream in streams:
            segments = _segments(stream, self.session.duration)
            if stream.stream_url and kind_of(stream.stream_url, stream.file_type) == kind:
                yield self._at(kind, stream.stream_url, segments)
            if stream.http_url and kind_of(stream.http_url) == kind:
                yield self._at(kind, stream.http_url, segments)

    def _at(self, kind: str, url: str, segments: tuple[Segment, ...] = ()) -> MediaLocation:
        absolute = urljoin(self.link.base_url + _PATH, url)
        own = origin_of(absolute) == origin_of(self.link.base_url)
        return MediaLocation(kind, absolute, segments, self.cookie_header if own else None)


def _tag_order(stream: _Stream) -> int:
    return _TAG_ORDER.get((stream.tag or "").upper(), _UNKNOWN_TAG)


def _segments(stream: _Stream, duration: float | None) -> tuple[Segment, ...]:
    """Return the stretches of a raw stream that the edited recording keeps; none where all."""
    kept = sorted(_kept(stream), key=lambda segment: segment.relative_start or 0)
    if _has_places(kept, duration):
        return tuple(Segment(item.start, item.end, item.relative_start) for item in kept)
    if len(kept) == 1 and stream.relative_end is not None:
        whole = kept[0].start < _SAME_SECONDS
        if whole and abs(kept[0].end - stream.relative_end) < _SAME_SECONDS:
            return ()
    return tuple(Segment(item.start, item.end) for item in kept)


def _kept(stream: _Stream) -> Iterator[_RelativeSegment]:
    """Yield the stream's segments, or all of a stream that begins later than the recording."""
    for item in stream.relative_segments or ():
        if item.end > max(0, item.start):
            yield item.model_copy(update={"start": max(0, item.start)})
    start, end = stream.relative_start or 0, stream.relative_end or 0
    if not stream.relative_segments and _SAME_SECONDS < start < end:
        yield _RelativeSegment(Start=0, End=end - start, RelativeStart=start)


def _has_places(kept: Sequence[_RelativeSegment], duration: float | None) -> bool:
    """Tell whether the recording has silences around the segments, for which its length has room.

    Where what is told of their places contradicts itself, they are one behind the other.
    """
    end, raw_end, has_gaps = 0.0, 0.0, False
    for item in kept:
        place = item.relative_start
        if place is None or item.start < raw_end or place < end - _SAME_SECONDS:
            return False
        has_gaps = has_gaps or place > end + _SAME_SECONDS
        end, raw_end = place + item.end - item.start, item.end
    return has_gaps and duration is not None and end <= duration + _ROOM_SECONDS
