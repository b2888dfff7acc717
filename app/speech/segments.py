"""Segments from words: what is shown at once, as long as a subtitle may be.

An engine's own segments swallow pauses and run for minutes; only its words are taken.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from app.transcript.model import Segment, Word

LONGEST_SECONDS = 7.0
MOST_CHARACTERS = 84
"""Two lines of 42, as subtitles have them."""
_PAUSE_SECONDS = 1.0
_LEAST_SECONDS = 0.02
_LEAST_CLAUSE_CHARACTERS = 30
_SENTENCE_ENDS = (".", "?", "!", "…", "。", "？", "！", "।", "؟")  # noqa: RUF001 - meant
_CLAUSE_ENDS = (",", ";", ":", "，", "、", "；", "：", "،", "—")  # noqa: RUF001 - meant
_CLOSING = "\"')]}»”’」』"  # noqa: RUF001 - meant


@dataclass(frozen=True, slots=True)
class HeardWord:
    """A word as an engine hears it; ``text`` has the space before it where one belongs there."""

    start: float
    end: float
    text: str
    confidence: float


def segments_of(words: Iterable[HeardWord], begin: float, end: float) -> list[Segment]:
    """Return what was said between ``begin`` and ``end`` (seconds), cut where a reader would cut.

    A segment ends with a sentence, before a pause of a second, and before it is longer than 7 s or
    84 characters, then at a comma where there is one in its second half.  Segments and words lie
    between the bounds and follow each other without overlap, each with ``start < end``.
    """
    return [_segment(part) for part in _parts(list(_in_order(words, begin, end)))]


def ends_clause(word: HeardWord) -> bool:
    """Whether a sentence or a part of one ends with the word."""
    return _ends(word, _SENTENCE_ENDS + _CLAUSE_ENDS)


def _in_order(words: Iterable[HeardWord], begin: float, end: float) -> Iterator[HeardWord]:
    """Yield the words between the bounds, each after the one before, and each with a length.

    An engine piles up words at the end of what it hears: they begin earlier, to have room.
    """
    written = [word for word in words if word.text.strip()]
    least = min(_LEAST_SECONDS, (end - begin) / (len(written) or 1))
    at = begin
    for left, word in zip(range(len(written), 0, -1), written, strict=True):
        start = max(at, min(word.start, end - left * least))
        at = min(max(word.end, start + least), end - (left - 1) * least)
        yield HeardWord(start, at, word.text, word.confidence)


def _parts(words: Sequence[HeardWord]) -> Iterator[Sequence[HeardWord]]:
    first = 0
    for at, word in enumerate(words):
        if at == first:
            continue
        before = words[at - 1]
        if _ends(before, _SENTENCE_ENDS) or word.start - before.end > _PAUSE_SECONDS:
            yield words[first:at]
            first = at
        elif _is_too_long(words[first : at + 1]):
            cut = _clause_end(words, first, at)
            yield words[first:cut]
            first = cut
    if first < len(words):
        yield words[first:]


def _is_too_long(words: Sequence[HeardWord]) -> bool:
    return (
        words[-1].end - words[0].start > LONGEST_SECONDS
        or len("".join(word.text for word in words).strip()) > MOST_CHARACTERS
    )


def _clause_end(words: Sequence[HeardWord], first: int, stop: int) -> int:
    """Return where the last clause ends that is long enough to stand alone, else ``stop``."""
    for at in range(stop, first + 1, -1):
        length = len("".join(word.text for word in words[first:at]).strip())
        if length < _LEAST_CLAUSE_CHARACTERS:
            break
        if _ends(words[at - 1], _CLAUSE_ENDS):
            return at
    return stop


def _ends(word: HeardWord, marks: tuple[str, ...]) -> bool:
    return word.text.rstrip().rstrip(_CLOSING).endswith(marks)


def _segment(words: Sequence[HeardWord]) -> Segment:
    seconds = sum(word.end - word.start for word in words)
    weighted = sum((word.end - word.start) * word.confidence for word in words)
    return Segment(
        words[0].start,
        words[-1].end,
        "".join(word.text for word in words).strip(),
        round(weighted / seconds, 4),
        tuple(
            Word(word.start, word.end, word.text.strip(), round(word.confidence, 4))
            for word in words
        ),
    )
