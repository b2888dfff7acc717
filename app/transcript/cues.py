"""A transcript cut into cues: what a player shows at once.

A cue has at most two lines of 42 characters and lasts at most 7 s.  It is cut between words, in
writing without spaces between characters; times inside a segment are its words', and where it has
none they are in proportion to the characters.
"""

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.transcript.model import Segment, Transcript

LINE_CHARACTERS = 42
_LINES = 2
_LONGEST_MS = 7000
_LONGEST_SECONDS = _LONGEST_MS / 1000
_PAUSE_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Cue:
    """Whole milliseconds, ``start_ms < end_ms``; lines without control characters."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is never cut; ``follows_space`` where the text has one before it."""

    start: float
    end: float
    text: str
    follows_space: bool


def cues_of(transcript: Transcript) -> list[Cue]:
    """Return the cues in order, none over another and all of them within the duration.

    Where there are more cues than milliseconds, each has one all the same.
    """
    blocks = [
        block
        for segment in sorted(transcript.segments, key=lambda each: (each.start, each.end))
        for block in _blocks(_pieces(segment))
    ]
    blocks.sort(key=lambda block: block[0].start)
    last = max(round(transcript.duration_seconds * 1000), len(blocks))
    starts: list[int] = []
    for block in blocks:
        earliest = starts[-1] + 1 if starts else 0
        starts.append(max(round(block[0].start * 1000), earliest))
    for index in reversed(range(len(starts))):
        latest = starts[index + 1] if index + 1 < len(starts) else last
        starts[index] = min(starts[index], latest - 1)
    return [
        Cue(
            start,
            min(max(round(block[-1].end * 1000), start + 1), latest, start + _LONGEST_MS),
            _lines(block),
        )
        for block, start, latest in zip(
            blocks, starts, [*starts[1:], last][: len(starts)], strict=True
        )
    ]


def clean(text: str) -> str:
    """Return the text on one line, single spaces between words, without control characters."""
    shown = "".join(
        character
        for character in text
        if character.isspace() or unicodedata.category(character) not in ("Cc", "Cs")
    )
    return " ".join(shown.split())


def _blocks(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    """Yield the pieces of each cue: as many as fit, and none from behind a pause."""
    block: list[_Piece] = []
    for piece in pieces:
        if block and (
            piece.start - block[-1].end > _PAUSE_SECONDS
            or piece.end - block[0].start > _LONGEST_SECONDS
            or len(_lines([*block, piece])) > _LINES
        ):
            yield block
            block = []
        block.append(piece)
    if block:
        yield block


def _lines(block: Sequence[_Piece]) -> tuple[str, ...]:
    """Return the pieces on lines that are filled one after the other."""
    lines = [block[0].text]
    for piece in block[1:]:
        joined = f"{lines[-1]}{' ' if piece.follows_space else ''}{piece.text}"
        if len(joined) <= LINE_CHARACTERS:
            lines[-1] = joined
        else:
            lines.append(piece.text)
    return tuple(lines)


def _pieces(segment: Segment) -> list[_Piece]:
    """Return the segment's text in pieces, each with its times."""
    text = clean(segment.text)
    anchors = _anchors(text, segment)
    pieces, offset = [], 0
    for word in text.split():
        offset = text.index(word, offset)
        for index, part in enumerate(_parts(word)):
            end = offset + len(part)
            times = _time_at(anchors, offset, after=True), _time_at(anchors, end)
            pieces.append(_Piece(*times, part, index == 0))
            offset = end
    return pieces


def _anchors(text: str, segment: Segment) -> list[tuple[int, float]]:
    """Return offsets in the text, and their times, where a word begins or ends; both ascending."""
    anchors, offset, latest = [(0, segment.start)], 0, segment.start
    for word in segment.words:
        said = clean(word.text)
        found = text.find(said, offset) if said else -1
        if found < 0:
            continue
        offset = found + len(said)
        latest = max(latest, word.start)
        anchors.append((found, latest))
        latest = max(latest, word.end)
        anchors.append((offset, latest))
    if offset < len(text):
        anchors.append((len(text), max(latest, segment.end)))
    return anchors


def _time_at(anchors: Sequence[tuple[int, float]], offset: int, *, after: bool = False) -> float:
    """Return the time of the offset; where two are known, the first, or that after a pause."""
    index = bisect_right(anchors, (offset, float("inf")) if after else (offset - 1, float("inf")))
    if after and anchors[index - 1][0] == offset:
        return anchors[index - 1][1]
    if not after and anchors[index][0] == offset:
        return anchors[index][1]
    (left, begin), (right, end) = anchors[index - 1], anchors[index]
    return begin + (end - begin) * (offset - left) / (right - left)


def _parts(word: str) -> Iterator[str]:
    """Yield a word in one, or what of it can stand on a line of its own.

    In writing that has no spaces these are characters with their marks; of what is merely longer
    than a line, as much as fits.
    """
    has_spaces = not any(_is_unspaced(character) for character in word)
    if has_spaces and len(word) <= LINE_CHARACTERS:
        yield word
        return
    part = ""
    for character in word:
        is_mark = unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf", "Sk")
        joins = is_mark or part.endswith("\u200d") or (has_spaces or not _is_unspaced(character))
        if part and (not joins or len(part) == LINE_CHARACTERS):
            yield part
            part = ""
        part += character
    yield part


def _is_unspaced(character: str) -> bool:
    """Whether its script puts no spaces between words: Chinese, Japanese, Thai, Lao …

    Korean is as wide as these, and has spaces.
    """
    return (
        "\u0e00" <= character <= "\u0eff"
        or "\u1000" <= character <= "\u109f"
        or "\u1780" <= character <= "\u17ff"
        or (
            unicodedata.east_asian_width(character) in "WF"
            and character.isalpha()
            and not "\uac00" <= character <= "\ud7a3"
        )
    )
