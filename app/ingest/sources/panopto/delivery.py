"""What a Panopto tenant says of a recording: DeliveryInfo, and the media that it offers.

The answer's fields are those that third-party clients read; every one may be missing, null or odd.
A child process reads them (`delivery_child`).
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode, urljoin, urlsplit

import structlog
from pydantic import TypeAdapter, ValidationError

from app.domain import LectureFailure
from app.errors import IngestFailed, NotReadyYet
from app.ingest.failures import login_required, looks_like_login
from app.ingest.model import CaptionSource, Edit, MediaLocation
from app.ingest.net.guard import FetchedBody, GuardedClient, origin_of
from app.ingest.sandbox.run import ChildError, Limits, run_child
from app.ingest.sources.panopto.languages import LANGUAGES
from app.ingest.sources.panopto.links import RecordingLink, guid

log = structlog.get_logger(__name__)

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
_CHILD_LIMITS = Limits(memory_bytes=1024**3, cpu_seconds=10, file_bytes=0)
_CHILD_TIMEOUT_SECONDS = 20.0
_MAX_READ_BYTES = 8 * 1024 * 1024
_LOGIN_REQUIRED = 2
_NOT_ALLOWED = 405
# The microphone is recorded with the camera; slides may be silent.
_TAG_ORDER = {"AUDIO": 0, "DV": 1, "SCREEN": 3, "OBJECT": 4}
_UNKNOWN_TAG = 2
_SILENT_TAGS = frozenset({"SCREEN", "OBJECT"})
_MOST_JOINED = 8
_SAME_SECONDS = 0.05
_ROOM_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """A recording as its tenant describes it; media and captions are in order of preference."""

    session_id: str | None
    title: str | None
    duration_seconds: float | None
    media: tuple[MediaLocation, ...]
    captions: tuple[CaptionSource, ...] = ()


@dataclass(frozen=True, slots=True)
class _Kept:
    """A stretch of a raw stream, in seconds, and where it is put in the recording."""

    start: float
    end: float
    relative_start: float | None


@dataclass(frozen=True, slots=True)
class _Stream:
    tag: str
    file_type: str
    stream_url: str | None
    http_url: str | None
    relative_start: float | None
    relative_end: float | None
    segments: tuple[_Kept, ...]


@dataclass(frozen=True, slots=True)
class _Session:
    public_id: str | None
    name: str | None
    duration_seconds: float | None
    languages: tuple[int, ...]
    is_live: bool | None
    is_viewer_encoded: bool | None
    is_podcast_encoded: bool | None
    is_audio_podcast_encoded: bool | None
    is_purged: bool | None
    streams: tuple[_Stream, ...]
    podcasts: tuple[_Stream, ...]


@dataclass(frozen=True, slots=True)
class _Answer:
    error_code: float | None
    session_id: str | None
    download_url: str | None
    session: _Session | None


_WIRE: TypeAdapter[_Answer] = TypeAdapter(_Answer)


async def ask_delivery(client: GuardedClient, link: RecordingLink) -> Delivery:
    """Ask the tenant for the recording.

    Raises `NotReadyYet` while it is live or being encoded, and `IngestFailed`: LOGIN_REQUIRED, or
    SOURCE_NOT_FOUND for any other refusal.
    """
    fetched = await _fetch(client, link)
    answer = await _read(fetched.body)
    session = answer.session
    is_page = session is None and looks_like_login(fetched.url)
    if answer.error_code == _LOGIN_REQUIRED or is_page:
        raise login_required()
    if answer.error_code or session is None or session.is_purged:
        raise _not_found()
    if session.is_live:
        raise NotReadyYet("The recording is still live.")
    if session.is_viewer_encoded is False:
        raise NotReadyYet("The recording is still being encoded.")
    # Who answered may be another than was asked: https for http, or the tenant's newer name.
    tenant = dataclasses.replace(link, base_url=origin_of(fetched.url) or link.base_url)
    media = tuple(_Media(tenant, answer, session, fetched.cookie_header).in_order())
    if not media:
        if session.is_podcast_encoded is False or session.is_audio_podcast_encoded is False:
            raise NotReadyYet("The recording is still being encoded.")
        raise _not_found()
    session_id = link.session_id or guid(session.public_id or answer.session_id or "")
    captions = tuple(_captions(tenant, session_id, session, fetched.cookie_header))
    return Delivery(session_id, session.name, session.duration_seconds, media, captions)


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


async def _read(body: bytes) -> _Answer:
    """Read the answer in a child; what cannot be read says nothing."""
    try:
        result = await run_child(
            "app.ingest.sandbox.tasks.delivery",
            {},
            content=body,
            limits=_CHILD_LIMITS,
            timeout_seconds=_CHILD_TIMEOUT_SECONDS,
            max_answer_bytes=_MAX_READ_BYTES,
        )
        return _WIRE.validate_python(result)
    except (ChildError, ValidationError) as error:
        log.info("delivery_info_unreadable", reason=type(error).__name__)
        return _Answer(None, None, None, None)


def _not_found() -> IngestFailed:
    return IngestFailed(LectureFailure.SOURCE_NOT_FOUND, "Panopto does not have the recording.")


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
        chains = sorted(_chains(self.session.streams), key=_tag_order)
        spoken = [chain for chain in chains if chain[0].tag not in _SILENT_TAGS]
        silent = [chain for chain in chains if chain[0].tag in _SILENT_TAGS]
        podcasts = [[podcast] for podcast in self.session.podcasts]
        session_id = self.link.session_id or guid(self.session.public_id or "")
        if self.session.is_audio_podcast_encoded and self.cookie_header and session_id:
            # The sound alone; the tenant serves it to its own cookie only.
            path = f"/Panopto/Podcast/Download/{session_id}.mp4?mediaTargetType=audioPodcast"
            yield self._at("podcast", path)
        yield from self._of_kind("hls", spoken)
        yield from self._of_kind("hls", podcasts)
        yield from self._of_kind("mp4", podcasts)
        yield from self._of_kind("mp4", spoken)
        yield from self._of_kind("hls", silent)
        yield from self._of_kind("mp4", silent)
        if self.answer.download_url:
            yield self._at("mp4", self.answer.download_url)

    def _of_kind(self, kind: str, chains: Iterable[Sequence[_Stream]]) -> Iterator[MediaLocation]:
        """Yield the locations of the kind of each chain's first stream, with those that follow."""
        for first, *rest in chains:
            for each, url in _places(first):
                if each == kind:
                    edits = _kept_of(first, self.session.duration_seconds)
                    then = tuple(self._then(kind, rest))
                    yield dataclasses.replace(self._at(kind, url, edits), then=then)

    def _then(self, kind: str, streams: Iterable[_Stream]) -> Iterator[tuple[float, MediaLocation]]:
        """Yield where each stream begins and its location, of the kind where it has such a one."""
        for stream in streams:
            places = sorted(_places(stream), key=lambda place: place[0] != kind)
            edits = tuple(Edit(kept.start, kept.end) for kept in stream.segments)
            for each, url in places[:1]:
                yield stream.relative_start or 0.0, self._at(each, url, edits)

    def _at(self, kind: str, url: str, edits: tuple[Edit, ...] = ()) -> MediaLocation:
        absolute = urljoin(self.link.base_url + _PATH, url)
        own = origin_of(absolute) == origin_of(self.link.base_url)
        return MediaLocation(kind, absolute, edits, self.cookie_header if own else None)


def _captions(
    link: RecordingLink, session_id: str | None, session: _Session, cookie_header: str | None
) -> Iterator[CaptionSource]:
    """Yield where the captions of each language are; the first is the recording's own."""
    identity = {"deliveryId": session_id} if session_id else {"tid": link.tid or ""}
    edits = _edits(session)
    for language in session.languages:
        asked = {**identity, "getCaptions": "true", "language": language, "responseType": "json"}
        url = f"{link.base_url}{_PATH}?{urlencode(asked)}"
        yield CaptionSource(url, LANGUAGES.get(language), edits, cookie_header)


def _edits(session: _Session) -> tuple[Edit, ...]:
    """Return what the recording keeps of the raw one, whose clock the captions have.

    It does not depend on which medium is fetched: a podcast is cut already, and captions never.
    Of a stream that goes on where another ends the clock begins where that stream does.
    """
    for chain in sorted(_chains(session.streams), key=_tag_order):
        if not any(stream.segments for stream in chain):
            continue
        edits: list[Edit] = []
        for stream in chain:
            begin = stream.relative_start or 0.0 if edits else 0.0
            kept = _kept_of(stream, None if edits else session.duration_seconds)
            if not stream.segments or not kept:  # All of it, where it is.
                begin = stream.relative_start or 0.0
                end = stream.relative_end or session.duration_seconds or begin
                edits.append(Edit(begin, end, begin))
                continue
            place = begin
            for each in kept:
                at = place if each.at_seconds is None else each.at_seconds
                edits.append(Edit(begin + each.start_seconds, begin + each.end_seconds, at))
                place = at + each.end_seconds - each.start_seconds
        return tuple(edits)
    return ()


def _tag_order(chain: Sequence[_Stream]) -> int:
    return _TAG_ORDER.get(chain[0].tag, _UNKNOWN_TAG)


def _places(stream: _Stream) -> Iterator[tuple[str, str]]:
    if stream.stream_url:
        yield kind_of(stream.stream_url, stream.file_type), stream.stream_url
    if stream.http_url:
        yield kind_of(stream.http_url), stream.http_url


def _chains(streams: Sequence[_Stream]) -> Iterator[list[_Stream]]:
    """Yield each stream that begins by itself, with those that go on where it ends.

    Each of these is the rest of one stream alone: whatever is told, no work is done twice.
    """
    rests = [each for each in streams if _goes_on(each, streams)]
    rests.sort(key=lambda each: each.relative_start or 0)
    for stream in streams:
        if _goes_on(stream, streams):
            continue
        chain = [stream]
        for rest in list(rests):
            if len(chain) < _MOST_JOINED and _goes_on(rest, chain[-1:]):
                chain.append(rest)
                rests.remove(rest)
        yield chain


def _goes_on(stream: _Stream, streams: Iterable[_Stream]) -> bool:
    """Tell whether it begins where another of its tag has ended, and so is the rest of that one.

    By itself it would be taken for a recording that begins with a silence.
    """
    start = stream.relative_start or 0
    return start > _SAME_SECONDS and any(
        other.tag == stream.tag and 0 < (other.relative_end or 0) <= start + _SAME_SECONDS
        for other in streams
        if other is not stream
    )


def _kept_of(stream: _Stream, duration: float | None) -> tuple[Edit, ...]:
    """Return the stretches of a raw stream that the edited recording keeps; none where all."""
    start, end = stream.relative_start or 0, stream.relative_end or 0
    kept = sorted(stream.segments, key=lambda segment: segment.relative_start or 0)
    if not kept and _SAME_SECONDS < start < end:  # All of it, later than the recording begins.
        kept = [_Kept(0, end - start, start)]
    if _has_places(kept, duration):
        return tuple(Edit(item.start, item.end, item.relative_start) for item in kept)
    if len(kept) == 1 and stream.relative_end is not None:
        whole = kept[0].start < _SAME_SECONDS
        if whole and abs(kept[0].end - stream.relative_end) < _SAME_SECONDS:
            return ()
    return tuple(Edit(item.start, item.end) for item in kept)


def _has_places(kept: Sequence[_Kept], duration: float | None) -> bool:
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
