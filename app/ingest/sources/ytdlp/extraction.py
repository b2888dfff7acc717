"""yt-dlp as an extractor alone: what is behind a link, and which media hold its sound.

It downloads nothing, writes nothing, starts nothing and reads no configuration.  What went wrong is
told by the class of an error and by fields of the result, never by a message's text.
"""

import fnmatch
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlencode, urlsplit
from xml.etree import ElementTree

from yt_dlp.extractor import gen_extractor_classes
from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.networking.common import RequestDirector
from yt_dlp.networking.exceptions import RequestError
from yt_dlp.utils import (
    ExtractorError,
    GeoRestrictedError,
    UnsupportedError,
    YoutubeDLError,
    unsmuggle_url,
)
from yt_dlp.YoutubeDL import YoutubeDL

from app.ingest.sandbox.child import Refused
from app.ingest.sandbox.questions import Questions
from app.ingest.sources import lenient
from app.ingest.sources.ytdlp.formats import media_of
from app.ingest.sources.ytdlp.requests import ParentRH
from app.ingest.sources.ytdlp.subtitles import captions_of

_PARAMETERS: dict[str, Any] = {
    "cachedir": False,
    "check_formats": False,
    "extractor_retries": 1,
    "format": lambda _: iter(()),  # The choice is made here, from all of them.
    "ignore_no_formats_error": True,  # A recording that is not ready yet has none.
    "js_runtimes": {},
    "noplaylist": True,
    "proxy": "",
    "quiet": True,
    "remote_components": [],
    "simulate": True,
}
# What code for a site raises where the site answers otherwise than it once did.
_ODD_ANSWERS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError),
    *(ValueError, ElementTree.ParseError, YoutubeDLError),
)
_NOT_READY = frozenset({"is_live", "is_upcoming", "post_live"})
_FOR_ACCOUNTS = frozenset({"needs_auth", "premium_only", "private", "subscriber_only"})
_LONGEST_SECONDS = 7 * 24 * 3600.0
_MAX_TITLE_CHARACTERS = 2000
_LISTS = frozenset({"playlist", "multi_video", "compat_list"})


class LoginRequired(ExtractorError):  # type: ignore[misc]
    """An extractor said, by its own method for that, that a login is needed."""


class Protected(ExtractorError):  # type: ignore[misc]
    """An extractor said that the recording is encrypted for one player."""


def extract(
    url: str, extractors: list[str], channel: int, *, captions: bool = False
) -> dict[str, Any]:
    """Return the recording, as `_recording` writes it.

    Refuses with ``unsupported`` (no allowed extractor knows the link), ``not_one``, ``not_ready``,
    ``login``, ``protected``, ``elsewhere``, ``request`` (the parent knows why it failed),
    ``silent`` (no format with sound), ``unavailable`` or ``broken``.
    """
    _teach_refusals()
    _teach_patience()
    link = _of_one(unsmuggle_url(url)[0])
    with _Extraction(Questions(channel), extractors, captions=captions) as extraction:
        try:
            info = extraction.extract_info(link, download=False)
        except (ExtractorError, RequestError) as error:
            raise Refused(_code_of(error, link, extractors)) from error
        return _recording(info, extraction.cookiejar)


def unknown(extractors: list[str]) -> list[str]:
    """Return those globs that match the name of no extractor."""
    names = [extractor.IE_NAME.lower() for extractor in gen_extractor_classes()]
    return [glob for glob in extractors if not fnmatch.filter(names, glob.lower())]


class _Extraction(YoutubeDL):  # type: ignore[misc]
    """Asks the parent for every request, and raises what went wrong as it was."""

    def __init__(self, questions: Questions, extractors: list[str], *, captions: bool) -> None:
        self._questions = questions
        # With these, extractors look for subtitles; none are written.
        wanted = {"writesubtitles": captions, "writeautomaticsub": captions}
        super().__init__({**_PARAMETERS, **wanted, "allowed_extractors": _allowed(extractors)})

    def build_request_director(self, handlers: Any, preferences: Any = None) -> RequestDirector:
        """Return a director that knows our handler alone."""
        return super().build_request_director([partial(ParentRH, self._questions)])

    def process_ie_result(self, ie_result: Any, *args: Any, **more: Any) -> Any:
        """Refuse lists before an entry of them is asked for."""
        if ie_result.get("_type") in _LISTS:
            raise Refused("not_one")
        return super().process_ie_result(ie_result, *args, **more)

    def trouble(self, message: Any = None, tb: Any = None, is_error: bool = True) -> None:
        """Raise the error that is being handled; where there is none, no extractor was found."""
        if is_error:
            raise sys.exception() or UnsupportedError("")


def _allowed(extractors: list[str]) -> list[str]:
    """Write globs as yt-dlp's own list of regular expressions; ``*`` is all that it enables.

    With ``generic`` come the parsers that it lends from; without, no wildcard brings it in.
    """
    rules = ["default" if glob == "*" else fnmatch.translate(glob) for glob in extractors]
    generic = ("html5", "generic:.*") if "generic" in extractors else ("-generic",)
    return [*rules, *generic, "-end"]


def _teach_refusals() -> None:
    """Give a class to what extractors otherwise tell by words alone."""

    def login(*_: Any, **__: Any) -> NoReturn:
        raise LoginRequired("login", expected=True)

    def protected(*_: Any, **__: Any) -> NoReturn:
        raise Protected("protected", expected=True)

    InfoExtractor.raise_login_required = login
    InfoExtractor.report_drm = protected


def _teach_patience() -> None:
    """Let what goes wrong with subtitles, whatever it is, cost them alone."""

    def bearing(extract_tracks: Callable[..., Any]) -> Callable[..., Any]:
        def extract_or_none(*given: Any, **more: Any) -> Any:
            try:
                return extract_tracks(*given, **more)
            except _ODD_ANSWERS:
                return {}

        return extract_or_none

    InfoExtractor.extract_subtitles = bearing(InfoExtractor.extract_subtitles)
    InfoExtractor.extract_automatic_captions = bearing(InfoExtractor.extract_automatic_captions)


def _of_one(url: str) -> str:
    """Leave the list out of a YouTube link that names one recording in it."""
    parts = urlsplit(url)
    host = (parts.hostname or "").removeprefix("www.").removeprefix("m.").removeprefix("music.")
    query = parse_qsl(parts.query, keep_blank_values=True)
    names_one = host == "youtu.be" or (host == "youtube.com" and "v" in dict(query))
    if not names_one:
        return url
    kept = [(name, value) for name, value in query if name != "list"]
    return parts._replace(query=urlencode(kept)).geturl()


def _code_of(error: Exception, url: str, extractors: list[str]) -> str:
    match error:
        case LoginRequired():
            return "login"
        case Protected():
            return "protected"
        case GeoRestrictedError():
            return "elsewhere"
        case UnsupportedError():
            return "not_one" if _is_of_family(url, extractors) else "unsupported"
    if any(isinstance(cause, RequestError) for cause in _causes(error)):
        return "request"
    return "unavailable" if getattr(error, "expected", False) else "broken"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and what yt-dlp says caused it."""
    while error is not None:
        yield error
        cause = getattr(error, "cause", None)
        error = cause if isinstance(cause, BaseException) else None


def _is_of_family(url: str, extractors: list[str]) -> bool:
    """Whether the link is of an allowed site, but of its lists, users or searches."""
    return any(
        extractor.suitable(url)
        for extractor in gen_extractor_classes()
        if extractor.IE_NAME.lower().partition(":")[0] in extractors and ":" in extractor.IE_NAME
    )


def _recording(info: dict[str, Any], cookies: Any) -> dict[str, Any]:
    if info.get("live_status") in _NOT_READY:
        raise Refused("not_ready")
    formats = info.get("formats") or ([info] if "url" in info else [])
    duration = lenient.seconds(info.get("duration"), longest=_LONGEST_SECONDS) or 0.0
    media = media_of(formats, duration, cookies.get_cookie_header)
    if not media:
        if info.get("_has_drm"):
            raise Refused("protected")
        if formats:
            raise Refused("silent")
        raise Refused("login" if info.get("availability") in _FOR_ACCOUNTS else "unavailable")
    start = lenient.seconds(info.get("section_start"), longest=_LONGEST_SECONDS)
    end = lenient.seconds(info.get("section_end"), longest=_LONGEST_SECONDS)
    is_section = start is not None and end is not None and 0 <= start < end
    return {
        "platform": (lenient.text(info.get("extractor_key")) or "").lower()[:100],
        "title": (lenient.text(info.get("title")) or "")[:_MAX_TITLE_CHARACTERS],
        "duration_seconds": max(duration, 0.0),
        "segment": [start, end] if is_section else None,
        "media": media,
        "captions": captions_of(info, cookies.get_cookie_header),
    }
