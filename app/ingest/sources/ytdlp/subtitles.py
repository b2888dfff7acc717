"""Which of a recording's subtitles (yt-dlp's dictionaries) are its own words, best first.

Those that people wrote come before automatic ones, the recording's language before others, WebVTT
before SRT.  Automatic ones in another language are translations, and left out.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from app.ingest.sources import lenient
from app.ingest.sources.ytdlp.formats import MAX_URL_CHARACTERS

_READ = ("vtt", "srt")
_MOST = 3
_ORIGINAL = "-orig"
_MAX_LANGUAGE_CHARACTERS = 35
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z0-9]{1,8}\b)*(?![a-z0-9])", re.IGNORECASE | re.ASCII)

Tracks = dict[str, Any]


def captions_of(
    info: dict[str, Any], cookie_header: Callable[[str], str | None]
) -> list[dict[str, Any]]:
    """Return the best three or fewer, as `YtDlpSource` reads them."""
    own = (lenient.text(info.get("language")) or "").lower()
    written = lenient.members(info.get("subtitles"))
    automatic = lenient.members(info.get("automatic_captions"))
    heard = [tag for tag in automatic if tag.endswith(_ORIGINAL) or (own and _is(tag, own))]
    found = [
        *_files(written, sorted(written, key=lambda tag: _distance(tag, own))),
        *_files(automatic, sorted(heard, key=lambda tag: not tag.endswith(_ORIGINAL))),
    ]
    return [
        {"url": url, "language": language, "cookie_header": cookie_header(url)}
        for url, language in found[:_MOST]
    ]


def _files(tracks: Tracks, tags: list[str]) -> Iterator[tuple[str, str | None]]:
    """Yield the best file of each language, and the language's tag."""
    for tag in tags:
        if len(tag) > _MAX_LANGUAGE_CHARACTERS:
            continue
        files = lenient.objects(tracks[tag], most=50)
        known = [each for each in files if _is_readable(each)]
        for best in sorted(known, key=lambda each: _READ.index(each["ext"]))[:1]:
            yield best["url"], _language(tag)


def _language(tag: str) -> str | None:
    """Return what of a site's tag is one of BCP 47: some go on with a name; None if nothing is."""
    found = _LANGUAGE.match(tag.removesuffix(_ORIGINAL).replace("_", "-"))
    return found[0] if found else None


def _is_readable(each: dict[str, Any]) -> bool:
    """Whether it is one file of a form that is read here, rather than a playlist of pieces."""
    url = each.get("url")
    return (
        each.get("ext") in _READ
        and isinstance(url, str)
        and 0 < len(url) <= MAX_URL_CHARACTERS
        and each.get("protocol") in (None, "http", "https")
    )


def _is(tag: str, own: str) -> bool:
    return tag.lower().partition("-")[0] == own.partition("-")[0]


def _distance(tag: str, own: str) -> int:
    """Order: exactly the recording's language, another form of it, any other."""
    if not own or tag.lower() == own:
        return 0
    return 1 if _is(tag, own) else 2
