"""A transcript's sentences, each with its place in the whole text and its time.

Positions are code points of `Transcript.text`: for each sentence, ``text == whole[start:end]``.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.transcript.model import Segment, Transcript

PAUSE_SECONDS = 1.5
"""A silence that ends a sentence, whatever its punctuation."""
LONGEST_SECONDS = 25.0

# The usual ones of Unicode's Sentence_Terminal, but for the full stop; and what may follow.
ENDS = "?!…‽。！？｡؟۔।॥։។"  # noqa: RUF001 - as they are
_CLOSING = "\"'”’»)]}』」）"  # noqa: RUF001
_PIECES = re.compile(rf"[^\s{ENDS}]*[{ENDS}]+[{re.escape(_CLOSING)}]*|[^\s{ENDS}]+")
_ABBREVIATIONS = frozenset(
    "bzw ca cf dr eq etc fig mr mrs ms nr prof resp sec st vgl vol vs".split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence; times are seconds of the audio, confidence 0 to 1 or None where nobody knows."""

    text: str
    start_character: int
    end_character: int
    start_seconds: float
    end_seconds: float
    confidence: float | None


@dataclass(frozen=True, slots=True)
class _Piece:
    start_character: int
    end_character: int
    start_seconds: float
    end_seconds: float
    confidence: float | None


def sentences(transcript: Transcript) -> list[Sentence]:
    """Return the sentences in order; no character that is not space is left out.

    A sentence ends with its punctuation, before a pause, and where it has taken 25 s.
    """
    whole = transcript.text
    found: list[Sentence] = []
    begun: list[_Piece] = []
    for piece in _pieces(transcript):
        if begun and _is_end(whole, begun, piece):
            found.append(_sentence(whole, begun))
            begun = []
        begun.append(piece)
    if begun:
        found.append(_sentence(whole, begun))
    return found


def _pieces(transcript: Transcript) -> Iterator[_Piece]:
    """Yield what is never cut: words, and in a text without spaces what marks enclose."""
    offset, now = 0, 0.0
    for segment in transcript.segments:
        for piece in _pieces_of(segment, offset):
            start = max(now, piece.start_seconds)
            end = min(max(start, piece.end_seconds), start + LONGEST_SECONDS)
            now = start
            yield _Piece(piece.start_character, piece.end_character, start, end, piece.confidence)
        offset += len(segment.text) + 1


def _pieces_of(segment: Segment, offset: int) -> Iterator[_Piece]:
    """Yield the segment's words, or its text's pieces with times by their lengths."""
    cursor = 0
    placed: list[_Piece] = []
    for word in segment.words:
        at = segment.text.find(word.text, cursor)
        if at < 0 or segment.text[cursor:at].strip():
            placed = []  # Its words are not its text, which is what is shown.
            break
        cursor = at + len(word.text)
        place = offset + at, offset + cursor
        placed.append(_Piece(*place, word.start, word.end, word.confidence))
    if placed and not segment.text[cursor:].strip():
        yield from placed
        return
    seconds = (segment.end - segment.start) / max(1, len(segment.text))
    for match in _PIECES.finditer(segment.text):
        start, end = match.span()
        times = segment.start + start * seconds, segment.start + end * seconds
        yield _Piece(offset + start, offset + end, *times, segment.confidence)


def _is_end(whole: str, begun: list[_Piece], following: _Piece) -> bool:
    last = begun[-1]
    if following.start_seconds - last.end_seconds > PAUSE_SECONDS:
        return True
    if following.end_seconds - begun[0].start_seconds > LONGEST_SECONDS:
        return True
    word = whole[last.start_character : last.end_character].rstrip(_CLOSING)
    if word.endswith(tuple(ENDS)):
        return True
    # A full stop also ends what is short for something, and a number in its place.
    if not word.endswith(".") or whole[following.start_character].islower():
        return False
    bare = word.rstrip(".").lower()
    return bool(bare) and bare not in _ABBREVIATIONS and not (len(bare) == 1 and bare.isalpha())


def _sentence(whole: str, pieces: list[_Piece]) -> Sentence:
    start, end = pieces[0].start_character, pieces[-1].end_character
    return Sentence(
        whole[start:end],
        start,
        end,
        pieces[0].start_seconds,
        max(piece.end_seconds for piece in pieces),
        mean_confidence(pieces),
    )


def mean_confidence(parts: Sequence[Sentence | _Piece]) -> float | None:
    """Return how sure they are together, by their length; None where nobody knows."""
    known = [
        (each.end_seconds - each.start_seconds, each.confidence)
        for each in parts
        if each.confidence is not None
    ]
    total = sum(seconds for seconds, _ in known)
    return sum(seconds * confidence for seconds, confidence in known) / total if total else None
