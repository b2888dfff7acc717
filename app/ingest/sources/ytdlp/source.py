"""The lectures of the sites that yt-dlp knows, extracted in a child process that has no network.

The child asks for each page over a channel; `_Errands` fetches it through the guard, within a
budget.  Of what the child answers, nothing is believed but its shape: the media that it names are
fetched by the same guard as any other link.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import httpx
import orjson
import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.domain import LectureFailure
from app.errors import ConfigurationError, IngestFailed, NotReadyYet
from app.ingest.failures import blocked, failure_of_status, login_required
from app.ingest.model import CaptionSource, Edit, LectureRequest, MediaLocation, ResolvedLecture
from app.ingest.net.guard import GuardedClient, content_type
from app.ingest.sandbox.channel import Message, answering
from app.ingest.sandbox.run import ChildCrashed, ChildRefused, ChildTimedOut, Limits, run_child
from app.ingest.sources.direct import names_media
from app.ingest.sources.ytdlp.formats import MAX_HEADER_CHARACTERS, MAX_URL_CHARACTERS

log = structlog.get_logger(__name__)

_TASK = "app.ingest.sandbox.tasks.ytdlp"
_NAMES_TASK = "app.ingest.sandbox.tasks.ytdlp_names"
_KNOWN = frozenset({"*", "generic", "googledrive", "vimeo", "youtube"})
# Measured: 0.6 s of CPU and 50 MB until the first page; what pages of megabytes take comes on top.
_LIMITS = Limits(memory_bytes=1024**3, cpu_seconds=30, file_bytes=0)
_MAX_ANSWER_BYTES = 256 * 1024
_MIB = 1024 * 1024
_ANY_ERROR = range(400, 1000)
_HOP_BY_HOP = frozenset({"connection", "content-length", "host", "te", "transfer-encoding"})
_MEDIA_HEADERS = frozenset({"accept", "accept-language", "origin", "referer", "user-agent"})
_PLAYLIST_TYPES = ("mpegurl", "dash+xml")

_Header = Annotated[str, Field(max_length=MAX_HEADER_CHARACTERS)]
_Url = Annotated[str, Field(max_length=MAX_URL_CHARACTERS)]


@dataclass(frozen=True, slots=True)
class Budget:
    """What one extraction may take: answers, their bytes one by one and together, and time.

    Of a file that is media or a download, no more than ``file_head_bytes`` are fetched.
    """

    requests: int = 60
    answer_bytes: int = 16 * _MIB
    total_bytes: int = 64 * _MIB
    file_head_bytes: int = 64 * 1024
    seconds: float = 90.0


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Question(_Wire):
    method: Literal["GET", "HEAD", "POST"]
    url: _Url
    headers: dict[_Header, _Header]


class _Medium(_Wire):
    kind: Literal["podcast", "hls", "mp4"]
    url: _Url
    headers: dict[_Header, _Header]
    cookie_header: _Header | None


class _Captions(_Wire):
    url: _Url
    language: str | None
    cookie_header: str | None


class _Recording(_Wire):
    platform: Annotated[str, Field(max_length=100)]
    title: str | None
    duration_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    segment: tuple[float, float] | None
    media: Annotated[tuple[_Medium, ...], Field(min_length=1, max_length=4)]
    captions: Annotated[tuple[_Captions, ...], Field(max_length=3)]


class YtDlpSource:
    """`LectureSource` for what the allowed extractors of yt-dlp know; never for a stream URL.

    ``extractors`` are globs of extractors' names in lower case; ``generic`` needs to be named.
    """

    def __init__(
        self,
        client: GuardedClient,
        extractors: tuple[str, ...],
        budget: Budget = Budget(),
        *,
        captions: bool = True,
    ) -> None:
        self._client = client
        self._captions = captions
        self._extractors = extractors
        self._budget = budget

    async def resolve(self, request: LectureRequest) -> ResolvedLecture | None:
        """Ask yt-dlp for the link; None where no allowed extractor knows it."""
        url = request.panopto_url
        if request.stream_url is not None or names_media(url):
            return None
        errands = _Errands(self._client, self._budget)
        try:
            recording = await self._extract(url, errands)
        except ChildRefused as refusal:
            if errands.blocked:
                raise errands.blocked from None
            if refusal.code == "unsupported":
                return None
            log.info("extraction_refused", code=refusal.code)
            raise _failure_of(refusal.code, errands.failure) from None
        except ChildTimedOut:
            message = "The site did not answer in time."
            raise IngestFailed(LectureFailure.TIMEOUT, message, transient=True) from None
        except ChildCrashed as crash:
            log.warning("extractor_crashed", code=crash.return_code)
            raise _failure_of("broken", None) from None
        finally:
            log.info("extracted", requests=errands.requests, fetched_bytes=errands.fetched_bytes)
        return _resolved(request, recording)

    async def _extract(self, url: str, errands: "_Errands") -> _Recording:
        async with answering(errands.run) as channel:
            result = await run_child(
                _TASK,
                {
                    "url": url,
                    "extractors": list(self._extractors),
                    "channel": channel,
                    "captions": self._captions,
                },
                limits=_LIMITS,
                timeout_seconds=self._budget.seconds,
                max_answer_bytes=_MAX_ANSWER_BYTES,
                descriptors=(channel,),
            )
        try:
            return _Recording.model_validate(result)
        except ValidationError:
            raise ChildRefused("broken") from None


async def require_known(extractors: tuple[str, ...]) -> None:
    """Raise `ConfigurationError` where one names no extractor; the usual ones cost nothing."""
    others = [name for name in extractors if name not in _KNOWN]
    if not others:
        return
    arguments = {"extractors": others}
    result = await run_child(_NAMES_TASK, arguments, limits=_LIMITS, timeout_seconds=30)
    if result["unknown"]:
        names = ", ".join(result["unknown"])
        raise ConfigurationError(f"SOURCES: yt-dlp has no extractor named {names}")


@dataclass(slots=True)
class _Errands:
    """Fetches what one child asks for.

    ``failure`` is why the last failing request failed; ``blocked`` is set where the guard refused
    one, which an extractor may have borne in silence.
    """

    client: GuardedClient
    budget: Budget
    requests: int = 0
    fetched_bytes: int = 0
    failure: IngestFailed | None = None
    blocked: IngestFailed | None = None

    async def run(self, head: bytes, body: bytes) -> Message:
        """Answer a question; without a status where the request was refused or failed."""
        try:
            return await self._fetch(_question(head), body)
        except IngestFailed as failure:
            self.failure = failure
            if failure.failure is LectureFailure.BLOCKED_URL:
                self.blocked = failure
            return b"{}", b""

    async def _fetch(self, question: _Question, body: bytes) -> Message:
        self.requests += 1
        if self.requests > self.budget.requests:
            raise _too_much()
        headers = {
            name: value
            for name, value in question.headers.items()
            if name.lower() not in _HOP_BY_HOP and _is_plain(value)
        }
        async with self.client.stream(
            question.method,
            question.url,
            headers=headers,
            data=body or None,
            tolerate=_ANY_ERROR,
            max_redirects=0,
        ) as response:
            if response.status_code >= 400:
                self.failure = failure_of_status(response)
            content, is_cut = await self._read(response)
        head = {
            "status": response.status_code,
            "headers": response.headers.multi_items(),
            "cut": is_cut,
        }
        return orjson.dumps(head), content

    async def _read(self, response: httpx.Response) -> tuple[bytes, bool]:
        """Return the body as it was sent, and whether it was cut at what is allowed."""
        is_file = _is_file(response)
        most = self.budget.file_head_bytes if is_file else self.budget.answer_bytes
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            self.fetched_bytes += len(chunk)
            if self.fetched_bytes > self.budget.total_bytes:
                raise _too_much()
            if len(content) > most:
                self.failure = _too_much()
                return bytes(content[:most]), True
        return bytes(content), False


def _question(head: bytes) -> _Question:
    try:
        return _Question.model_validate_json(head)
    except ValidationError:
        raise blocked() from None


def _is_file(response: httpx.Response) -> bool:
    """Whether the body is a file to download rather than something to read."""
    kind = content_type(response)
    if kind.startswith(("audio/", "video/")):
        return not kind.endswith(_PLAYLIST_TYPES)
    disposition: str = response.headers.get("content-disposition", "")
    return disposition.lower().startswith("attachment")


def _resolved(request: LectureRequest, recording: _Recording) -> ResolvedLecture:
    edits = (Edit(*recording.segment),) if recording.segment else ()
    media = tuple(_location(medium, edits) for medium in recording.media)
    return ResolvedLecture(
        request.session_id,
        recording.title,
        recording.duration_seconds or None,
        media,
        captions=tuple(
            CaptionSource(each.url, each.language, edits, _cookie(each.cookie_header))
            for each in recording.captions
        ),
        platform=recording.platform,
    )


def _location(medium: _Medium, edits: tuple[Edit, ...]) -> MediaLocation:
    """Return where the medium is, with those headers alone that any host may see."""
    headers = tuple(
        (name.title(), value)
        for name, value in medium.headers.items()
        if name.lower() in _MEDIA_HEADERS and _is_plain(value)
    )
    return MediaLocation(medium.kind, medium.url, edits, _cookie(medium.cookie_header), headers)


def _cookie(header: str | None) -> str | None:
    """Return a Cookie header that can be sent; None where it cannot."""
    is_sendable = len(header or "") <= MAX_HEADER_CHARACTERS and _is_plain(header or "")
    return header if is_sendable else None


def _is_plain(value: str) -> bool:
    """Whether a header can carry it."""
    return value.isascii() and value.isprintable()


_MESSAGES = {
    "not_one": "The link does not name one recording. Paste the link of a single recording.",
    "protected": "The recording is protected against copying.",
    "elsewhere": "The site does not show the recording where this service runs.",
    "unavailable": "The site does not offer the recording.",
    "broken": "The recording could not be read from its page.",
    "request": "The site does not offer the recording.",
}


def _failure_of(code: str, cause: IngestFailed | None) -> IngestFailed | NotReadyYet:
    """Return what a refusal means; ``cause`` is why the last request failed, where one did."""
    if code == "not_ready":
        return NotReadyYet("The recording is still live, or has not begun.")
    if code == "login":
        return login_required()
    if code == "silent":
        return IngestFailed(LectureFailure.NO_AUDIO, "The recording has no audio.")
    if code == "request" and cause is not None:
        return cause
    message = _MESSAGES.get(code, _MESSAGES["broken"])
    return IngestFailed(LectureFailure.SOURCE_NOT_FOUND, message)


def _too_much() -> IngestFailed:
    return IngestFailed(LectureFailure.TOO_LARGE, "The recording's page is too large.")
