"""The child's task that parses an HLS playlist (RFC 8216).

The parser takes minutes for some playlists of a few megabytes and raises whatever comes for
malformed tags: here neither hurts anyone.
"""

from typing import Any
from urllib.parse import urljoin

import m3u8

from app.ingest.child_process import Refused

_AUDIO_CODECS = ("mp4a", "ac-3", "ec-3", "opus", "mp3", "flac", "alac", ".mp3")
_MAX_SEGMENTS = 50_000
_MAX_SEGMENT_SECONDS = 24 * 3600.0


def run(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"playlist": …}`` for the ``text`` found at ``url``.

    The shapes are those of `app.ingest.playlist`; any exception says that it cannot be read.
    """
    text, url = arguments["text"], arguments["url"]
    playlist = m3u8.loads(text)
    return {"playlist": _master(playlist, url) if playlist.is_variant else _media(playlist, url)}


def _master(playlist: Any, url: str) -> dict[str, Any]:
    renditions = [item for item in playlist.media if item.type == "AUDIO" and item.uri]
    renditions.sort(key=lambda item: item.default != "YES")
    variants = [item for item in playlist.playlists if _has_audio(item.stream_info.codecs)]
    variants.sort(key=lambda item: item.stream_info.bandwidth)
    first = dict.fromkeys(urljoin(url, item.uri) for item in renditions)
    every = first | dict.fromkeys(urljoin(url, item.uri) for item in variants)
    return {"audio_urls": list(every), "renditions": len(first)}


def _has_audio(codecs: str | None) -> bool:
    """Whether a variant may have audio; one that does not name its codecs may."""
    if not codecs:
        return True
    return any(codec.strip().lower().startswith(_AUDIO_CODECS) for codec in codecs.split(","))


def _media(playlist: Any, url: str) -> dict[str, Any]:
    if len(playlist.segments) > _MAX_SEGMENTS:
        raise ValueError("too many segments")
    parts: list[dict[str, Any]] = []
    init: dict[str, Any] | None = None
    ends: dict[str, int] = {}
    for segment in playlist.segments:
        key = _key(segment, url)
        section = _init(segment.init_section, url, key)
        is_new = section is not None and (init is None or _place(section) != _place(init))
        starts_run = bool(parts) and bool(segment.discontinuity or is_new)
        init = section if is_new else init
        if init and (is_new or starts_run):
            # Once more where it is the same: each run is to be readable by itself.
            parts.append(init | {"starts_run": starts_run})
            starts_run = False
        target = urljoin(url, segment.uri)
        byte_range = _byte_range(segment.byterange, ends.get(target, 0))
        if byte_range:
            ends[target] = byte_range["start"] + byte_range["length"]
        part = _part(target, _seconds(segment.duration), byte_range, key, is_init=False)
        parts.append(part | {"is_gap": bool(segment.gap_tag), "starts_run": starts_run})
    breaks = sum(1 for segment in playlist.segments if segment.discontinuity)
    return {"parts": parts, "ended": bool(playlist.is_endlist), "discontinuities": breaks}


def _place(part: dict[str, Any]) -> tuple[Any, Any]:
    return part["url"], part["byte_range"]


def _part(
    url: str, seconds: float, byte_range: Any, key: dict[str, str] | None, *, is_init: bool
) -> dict[str, Any]:
    return {
        "url": url,
        "duration_seconds": seconds,
        "byte_range": byte_range,
        "key": key,
        "is_init": is_init,
    }


def _init(section: Any, url: str, key: dict[str, str] | None) -> dict[str, Any] | None:
    if section is None:
        return None
    byte_range = _byte_range(section.byterange, 0)
    return _part(urljoin(url, section.uri), 0.0, byte_range, key, is_init=True)


def _key(segment: Any, url: str) -> dict[str, str] | None:
    key = segment.key
    if key is None or key.method == "NONE":
        return None
    if key.method != "AES-128" or key.keyformat not in (None, "identity") or not key.uri:
        raise Refused("protected")
    number = int(key.iv, 16) if key.iv else segment.media_sequence
    return {"url": urljoin(url, key.uri), "iv": number.to_bytes(16, "big").hex()}


def _byte_range(text: str | None, following: int) -> dict[str, int] | None:
    """Read ``length[@offset]``; without an offset it follows the last range of the same file."""
    if not text:
        return None
    length, _, start = text.partition("@")
    found = {"start": int(start) if start else following, "length": int(length)}
    if found["start"] < 0 or found["length"] <= 0:
        raise ValueError("byte range")
    return found


def _seconds(duration: float | None) -> float:
    if duration is None or not 0 <= duration <= _MAX_SEGMENT_SECONDS:
        raise ValueError("duration")
    return duration
