"""The child's task that reads captions: WebVTT, SRT, or a Panopto tenant's JSON.

The bytes tell which it is.  Whatever a cue has that is not text (tags, positions, escapes) is left
out; a cue that is odd costs itself alone.
"""

import html
import io
import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from webvtt import WebVTT
from webvtt.errors import MalformedCaptionError, MalformedFileError

from app.ingest.sandbox.child import Refused
from app.ingest.sandbox.tasks.delivery import decoded, parsed, unwrapped
from app.ingest.sources import lenient

_MOST_CUES = 50_000
_MOST_CHARACTERS = 4_000_000
_MAX_CUE_CHARACTERS = 2000
_LONGEST_SECONDS = 7 * 24 * 3600.0
_UNTOLD_SECONDS = 5.0
_TOUCHING_SECONDS = 0.1
_TAG = re.compile(r"</?(?:[biuc]|font|span|br)(?:[\s.][^<>\n]*)?/?>|\{\\[^{}\n]*\}", re.IGNORECASE)

_Cue = tuple[float, float, list[str]]
"""Start and end in seconds, and the lines."""


def run(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"cues": [[start, end, text], …]}`` in order; refuses as ``unreadable``."""
    text = decoded(arguments.get("content", b"")).lstrip("\ufeff \t\r\n")
    cues = [_mended(*cue) for cue in _cues(text)]
    cues.sort(key=lambda cue: cue[:2])
    if _rolls(cues):
        cues = list(_kept_once(cues))
    return {"cues": [[*times, " ".join(lines)] for *times, lines in cues if lines]}


def _cues(text: str) -> Iterator[tuple[float, float | None, str]]:
    """Yield start, end (None: not told) and text of what the file has, within all limits."""
    left = _MOST_CHARACTERS
    for start, end, words in _read(text):
        words = words[: min(_MAX_CUE_CHARACTERS, left)]
        left -= len(words)
        if 0 <= start <= _LONGEST_SECONDS and words.strip():
            yield start, end, words


def _read(text: str) -> Iterator[tuple[float, float | None, str]]:
    if text.startswith(("[", "{")):
        # Entries with a time and a text count.
        for entry in lenient.objects(unwrapped(parsed(text)), most=_MOST_CUES):
            start, words = lenient.number(entry.get("Time")), lenient.text(entry.get("Caption"))
            lasts = lenient.number(entry.get("CaptionDuration"))
            if start is not None and words:
                yield start, start + lasts if lasts else None, html.unescape(_TAG.sub(" ", words))
        return
    is_vtt = text.startswith("WEBVTT")
    try:
        captions = WebVTT.from_buffer(io.StringIO(text), format="vtt" if is_vtt else "srt").captions
    except (MalformedFileError, MalformedCaptionError):
        raise Refused("unreadable") from None
    for caption in captions[:_MOST_CUES]:
        # In SRT a "<" is a tag only where it is a usual one.
        words = caption.text if is_vtt else _TAG.sub("", caption.raw_text)
        yield _seconds(caption.start), _seconds(caption.end), html.unescape(words)


def _seconds(stamp: str) -> float:
    """Return the seconds of ``h:mm:ss.mmm``, as webvtt-py writes every time."""
    hours, minutes, seconds = stamp.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _mended(start: float, end: float | None, text: str) -> _Cue:
    """Return the cue with an end behind its start, and its lines as they are read."""
    if end is None or not start < end <= _LONGEST_SECONDS:
        end = start + _UNTOLD_SECONDS
    normal = unicodedata.normalize("NFC", text.encode("utf-8", "ignore").decode())
    shown = "".join(
        character if character.isspace() or unicodedata.category(character) != "Cc" else ""
        for character in normal
    )
    lines = (" ".join(line.split()) for line in shown.splitlines())
    return start, end, [line for line in lines if line]


def _rolls(cues: list[_Cue]) -> bool:
    """Tell whether at least half of the cues repeat lines of the one before.

    Automatic captions do, line after line as they scroll.  In others, what is said twice is said
    twice.
    """
    repeating = sum(_repeated(*pair) is not None for pair in pairwise(cues))
    return repeating > 0 and 2 * repeating >= len(cues) - 1


def _repeated(before: _Cue, cue: _Cue) -> list[str] | None:
    """Return what is new in a cue that repeats the end of the one before it; None where none."""
    if cue[0] > before[1] + _TOUCHING_SECONDS:
        return None
    old, lines = before[2], cue[2]
    for count in range(min(len(old), len(lines)), 0, -1):
        if old[-count:] == lines[:count]:
            return lines[count:]
    shown = " ".join(old)
    if shown and " ".join(lines).startswith(f"{shown} "):  # A line that grows word by word.
        return [" ".join(lines)[len(shown) + 1 :]]
    return None


def _kept_once(cues: list[_Cue]) -> Iterator[_Cue]:
    """Yield each cue with those of its lines alone that were not shown before."""
    before: _Cue | None = None
    for cue in cues:
        new = _repeated(before, cue) if before else None
        yield cue if new is None else (cue[0], cue[1], new)
        before = cue
