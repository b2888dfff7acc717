"""Windows of a transcript, as search sees them: whole sentences, about half a minute.

Shorter ones lack what a question is about, longer ones are about too much (docs/search.md,
"Quality").
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from app.passages.sentences import Sentence, mean_confidence, sentences
from app.transcript.model import Transcript

TARGET_SECONDS = 30.0
MOST_SECONDS = 40.0
BREAK_SECONDS = 8.0
"""A pause after which something else begins."""
_SLIDE_AFTER_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive sentences; times are seconds, positions code points of the whole text."""

    text: str
    start_character: int
    end_character: int
    start_seconds: float
    end_seconds: float
    confidence: float | None
    sentences: tuple[Sentence, ...]


def windows(transcript: Transcript, slide_changes: Sequence[float] = ()) -> list[Window]:
    """Return the windows in order: every sentence is in one, or in two that follow each other.

    A window grows to 30 s, ends before 40 where its sentences allow it, and before 60 always.  It
    also ends at a pause over 8 s, and where the slide changes (``slide_changes``, ascending
    seconds) once it has 20 s; elsewhere the next one begins with its last sentence.
    """
    whole, parts = transcript.text, sentences(transcript)
    found: list[Window] = []
    first = new = 0
    while new < len(parts):
        last = new
        while last + 1 < len(parts) and not _ends(parts, first, last, slide_changes):
            last += 1
        found.append(_window(whole, parts[first : last + 1]))
        new = last + 1
        is_cut = new < len(parts) and _is_border(parts[last], parts[new], slide_changes)
        first = new if is_cut else last
    return found


def _ends(parts: list[Sentence], first: int, last: int, slide_changes: Sequence[float]) -> bool:
    start, following = parts[first].start_seconds, parts[last + 1]
    seconds = parts[last].end_seconds - start
    if seconds >= TARGET_SECONDS or following.end_seconds - start > MOST_SECONDS:
        return True
    if following.start_seconds - parts[last].end_seconds > BREAK_SECONDS:
        return True
    return seconds >= _SLIDE_AFTER_SECONDS and _is_border(parts[last], following, slide_changes)


def _is_border(before: Sentence, after: Sentence, slide_changes: Sequence[float]) -> bool:
    """Whether what follows is about something else: a long pause, or another slide."""
    if after.start_seconds - before.end_seconds > BREAK_SECONDS:
        return True
    # A lecturer turns the page a little before or after the sentence ends.
    changed = bisect_right(slide_changes, before.start_seconds)
    return changed < len(slide_changes) and slide_changes[changed] <= after.start_seconds + 1.0


def _window(whole: str, parts: list[Sentence]) -> Window:
    start, end = parts[0].start_character, parts[-1].end_character
    return Window(
        whole[start:end],
        start,
        end,
        parts[0].start_seconds,
        max(each.end_seconds for each in parts),
        mean_confidence(parts),
        tuple(parts),
    )
