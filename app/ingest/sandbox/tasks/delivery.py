"""The child's task that reads a DeliveryInfo answer.  The standard library alone.

Of what a tenant says only what is needed must be right: an encoding detail, a wrapping or an odd
value costs itself alone.  `docs/sources.md` tells what each field means where it is odd.
"""

import json
import re
from typing import Any
from urllib.parse import urlsplit

from app.ingest.sandbox.child import Refused
from app.ingest.sources import lenient

_MOST_WRAPPINGS = 3
_MOST_STREAMS = 32
_MOST_LANGUAGES = 64
_MOST_SEGMENTS = 500
_MOST_SEGMENTS_IN_ALL = 4000
_MAX_URL_CHARACTERS = 16_384
_MAX_TEXT_CHARACTERS = 2000
_LONGEST_SECONDS = 7 * 24 * 3600.0
_LONGEST_DIGITS = 18
_BEYOND_ASCII = re.compile("[^\x00-\x7f\ufffd]")


def run(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the ``content`` in the shape of `delivery.Answer`; refuses as ``unreadable``."""
    answer = lenient.members(unwrapped(parsed(decoded(arguments.get("content", b"")))))
    delivery = answer.get("Delivery")
    return {
        "error_code": lenient.number(answer.get("ErrorCode")),
        "session_id": _text(answer.get("SessionId")),
        "download_url": _url(answer.get("DownloadUrl")),
        "session": _session(delivery) if isinstance(delivery, dict) else None,
    }


def decoded(content: bytes) -> str:
    """Decode by the byte order mark, or as UTF-8; what is neither is taken for Windows-1252."""
    try:
        return content.decode(json.detect_encoding(content))
    except UnicodeDecodeError:
        damaged = content.decode("utf-8", "replace")
    return damaged if _BEYOND_ASCII.search(damaged) else content.decode("cp1252", "replace")


def parsed(text: str) -> Any:
    """Parse the text, or the object in it where it is a script or a page around one."""
    for found in (text, text[text.find("{") : text.rfind("}") + 1]):
        try:
            return json.loads(found, strict=False, parse_int=_number)
        except (ValueError, RecursionError):
            continue
    raise Refused("unreadable")


def _number(digits: str) -> int | float:
    """Read a whole number; of those that are too long for one, what is left of them."""
    return int(digits) if len(digits) <= _LONGEST_DIGITS else float(digits)


def unwrapped(answer: Any) -> Any:
    """Take the answer out of ``d``, in which it may be a text itself."""
    for _ in range(_MOST_WRAPPINGS):
        if isinstance(answer, str):
            answer = parsed(answer)
        elif isinstance(answer, dict) and "d" in answer:
            answer = answer["d"]
    return answer


def _session(told: dict[str, Any]) -> dict[str, Any]:
    duration = lenient.seconds(told.get("Duration"), longest=_LONGEST_SECONDS)
    streams, podcasts = _streams(told.get("Streams")), _streams(told.get("PodcastStreams"))
    share = _MOST_SEGMENTS_IN_ALL // max(len(streams) + len(podcasts), 1)
    most_segments = min(_MOST_SEGMENTS, share)
    return {
        "public_id": _text(told.get("PublicID")),
        "name": _text(told.get("SessionName")),
        "duration_seconds": duration if duration and duration > 0 else None,
        "languages": _languages(told),
        "is_live": lenient.flag(told.get("IsActiveBroadcast")),
        "is_viewer_encoded": lenient.flag(told.get("IsViewerEncodeComplete")),
        "is_podcast_encoded": lenient.flag(told.get("IsPodcastEncodeComplete")),
        "is_audio_podcast_encoded": lenient.flag(told.get("IsAudioPodcastEncodeComplete")),
        "is_purged": lenient.flag(told.get("IsPurgedEncode")),
        "streams": [_stream(each, most_segments) for each in streams],
        "podcasts": [_stream(each, most_segments) for each in podcasts],
    }


def _languages(told: dict[str, Any]) -> list[int]:
    """Return the numbers of the languages that have captions, each once, in the tenant's order."""
    listed = told.get("AvailableLanguages")
    numbers = map(lenient.number, listed if isinstance(listed, list) else [listed])
    known = dict.fromkeys(int(each) for each in numbers if each is not None and 0 <= each < 1000)
    return list(known)[:_MOST_LANGUAGES]


def _streams(told: Any) -> list[dict[str, Any]]:
    return lenient.objects(told, most=_MOST_STREAMS)


def _stream(told: dict[str, Any], most_segments: int) -> dict[str, Any]:
    segments = lenient.objects(told.get("RelativeSegments"), most=most_segments)
    return {
        "tag": (_text(told.get("Tag")) or "").strip().upper(),
        "file_type": (_text(told.get("ViewerMediaFileTypeName")) or "").strip().lower(),
        "stream_url": _url(told.get("StreamUrl")),
        "http_url": _url(told.get("StreamHttpUrl")),
        "relative_start": _time(told.get("RelativeStart")),
        "relative_end": _time(told.get("RelativeEnd")),
        "segments": [read for each in segments if (read := _segment(each))],
    }


def _segment(told: dict[str, Any]) -> dict[str, Any] | None:
    """Return the stretch, from 0 on where no start is told; None where it has no length."""
    start, end = max(_time(told.get("Start")) or 0.0, 0.0), _time(told.get("End"))
    if end is None or end <= start:
        return None
    return {"start": start, "end": end, "relative_start": _time(told.get("RelativeStart"))}


def _time(value: Any) -> float | None:
    return lenient.seconds(value, longest=_LONGEST_SECONDS)


def _text(value: Any) -> str | None:
    found = lenient.text(value)
    return found[:_MAX_TEXT_CHARACTERS] if found else None


def _url(value: Any) -> str | None:
    """Return what a URL parser accepts, so that one broken stream does not cost the others."""
    found = (lenient.text(value) or "").strip()
    try:
        return found if found and len(found) <= _MAX_URL_CHARACTERS and urlsplit(found) else None
    except ValueError:
        return None
