"""Which of a recording's formats (yt-dlp's dictionaries) are worth fetching for their sound.

Sound alone by HTTP, then sound alone by HLS, then the smallest file with both; all else needs what
is not here (DASH fragments, RTMP, a player's keys).
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from app.ingest.sources import lenient

_HTTP = frozenset({"http", "https"})
_HLS = frozenset({"m3u8", "m3u8_native"})
_SOUND = frozenset({"aac", "flac", "m4a", "mka", "mp3", "oga", "ogg", "opus", "wav", "weba"})
_USUAL_SECONDS = 3600.0
_MOST = 4
MAX_URL_CHARACTERS = 16_384
MAX_HEADER_CHARACTERS = 8192

Format = dict[str, Any]


def media_of(
    formats: Iterable[Format], seconds: float | None, cookie_header: Callable[[str], str | None]
) -> list[dict[str, Any]]:
    """Return the best four or fewer, as `ytdlp_source` reads them; ``formats`` come worst first."""
    known = [each for each in formats if _is_fetchable(each)]
    alone = [each for each in known if _is_sound_alone(each)]
    both = [each for each in known if not _is_sound_alone(each)]
    best = [
        *_best(each for each in alone if each["protocol"] in _HTTP),
        *_best(each for each in alone if each["protocol"] in _HLS),
        *sorted(both, key=partial(_size, seconds or _USUAL_SECONDS)),
    ]
    return [_medium(each, cookie_header(each["url"])) for each in best[:_MOST]]


def _is_fetchable(each: Format) -> bool:
    """Whether it has sound, as far as is known, and comes whole by HTTP or HLS."""
    return (
        each.get("protocol") in _HTTP | _HLS
        and 0 < len(each.get("url") or "") <= MAX_URL_CHARACTERS
        and each.get("acodec") != "none"
        and not each.get("fragments")
        and not each.get("has_drm")
    )


def _is_sound_alone(each: Format) -> bool:
    return each.get("vcodec") == "none" or (
        each.get("vcodec") is None and each.get("ext") in _SOUND
    )


def _best(formats: Iterable[Format]) -> list[Format]:
    """Return the best of them: the original language, then AAC (copied, not encoded), then last."""
    best: list[Format] = sorted(formats, key=_worth)[-1:]
    return best


def _worth(each: Format) -> tuple[float, bool]:
    return each.get("language_preference") or -1, str(each.get("acodec")).startswith("mp4a")


def _size(seconds: float, each: Format) -> float:
    """Return the bytes that are told, else those that the bit rate foretells; unknown come last."""
    told, guessed, rate = (
        lenient.number(each.get(name)) for name in ("filesize", "filesize_approx", "tbr")
    )
    return told or guessed or (rate or math.inf) * 1000 / 8 * seconds


def _medium(each: Format, cookie_header: str | None) -> dict[str, Any]:
    file_kind = "podcast" if _is_sound_alone(each) else "mp4"
    headers = {
        name: value
        for name, value in (each.get("http_headers") or {}).items()
        if isinstance(value, str) and len(name + value) <= MAX_HEADER_CHARACTERS
    }
    return {
        "kind": "hls" if each["protocol"] in _HLS else file_kind,
        "url": each["url"],
        "headers": headers,
        "cookie_header": cookie_header
        if len(cookie_header or "") <= MAX_HEADER_CHARACTERS
        else None,
    }
