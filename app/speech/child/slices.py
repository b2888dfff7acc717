"""A recording in slices that are heard one after the other, cut where nobody speaks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from app.speech.child.recognizer import speech_in
from app.speech.child.sound import RATE, Samples, Sound
from app.speech.segments import HeardWord, ends_clause

LONGEST_SECONDS = 300
_EARLIEST_CUT = 60 * RATE
_BREATH = round(0.4 * RATE)
_SLACK = round(0.1 * RATE)
_LONG_WORD = round(0.6 * RATE)
_FRAME = round(0.01 * RATE)
_EDGE = round(0.03 * RATE)
_QUIET = 0.1  # Of the loudest in the word: 20 dB less.


@dataclass(frozen=True, slots=True)
class Slice:
    """From sample ``start`` to ``stop`` of the recording, and the speech in between."""

    start: int
    stop: int
    speech: Speech


class _Stretch(NamedTuple):
    place: int  # Among the samples of speech.
    start: int  # In the recording, with the breath before it, so that no word is cut.
    first: int  # Where the speech begins,
    last: int  # and where it ends.


class Speech:
    """The samples of a slice with its silences cut out, and where each was in the recording."""

    def __init__(self, samples: Samples, stretches: Sequence[tuple[int, int]], start: int) -> None:
        self._stretches: list[_Stretch] = []
        place, parts = 0, [samples[:0]]
        for (first, last), (begin, stop) in zip(
            stretches, _with_breath(stretches, len(samples)), strict=True
        ):
            self._stretches.append(_Stretch(place, start + begin, start + first, start + last))
            parts.append(samples[begin:stop])
            place += stop - begin
        self.samples: Samples = np.concatenate(parts)

    @property
    def seconds(self) -> float:
        """How much speech there is."""
        return len(self.samples) / RATE

    def tight(self, word: HeardWord) -> HeardWord:
        """Return a long word without the quiet around it: an engine lets words swallow breaths."""
        first, last = round(word.start * RATE), round(word.end * RATE)
        count = (last - first) // _FRAME
        if last - first < _LONG_WORD:
            return word
        frames = self.samples[first : first + count * _FRAME].reshape(-1, _FRAME)
        levels = np.sqrt((frames**2).mean(axis=1))
        loud = np.flatnonzero(levels > _QUIET * levels.max(initial=0.0))
        if not len(loud):
            return word
        start = word.start + max(0, int(loud[0]) * _FRAME - _EDGE) / RATE
        end = word.start + (int(loud[-1] + 1) * _FRAME + _EDGE) / RATE
        return HeardWord(start, min(end, word.end), word.text, word.confidence)

    def in_recording(self, words: Sequence[HeardWord]) -> list[HeardWord]:
        """Return the words at their times in the recording, each within a stretch of speech.

        That is the stretch which has the word's middle; but what begins a clause is said behind a
        pause, not before it, wherever the engine puts it.
        """
        indexes = [self._index_at((word.start + word.end) / 2) for word in words]
        for at in range(1, len(words) - 1):
            is_last = indexes[at] < indexes[at + 1]
            if is_last and ends_clause(words[at - 1]) and not ends_clause(words[at]):
                indexes[at] = indexes[at + 1]
        return [
            self._placed(word, self._stretches[index])
            for word, index in zip(words, indexes, strict=True)
        ]

    def second_at(self, seconds: float) -> float:
        """Return where in the recording so many seconds of its speech end."""
        stretch = self._stretches[self._index_at(seconds)]
        return seconds + (stretch.start - stretch.place) / RATE

    def _index_at(self, seconds: float) -> int:
        places = [each.place for each in self._stretches]
        return max(bisect_right(places, seconds * RATE) - 1, 0)

    def _placed(self, word: HeardWord, stretch: _Stretch) -> HeardWord:
        moved = (stretch.start - stretch.place) / RATE
        earliest = (stretch.first - _SLACK) / RATE
        latest = (stretch.last + _SLACK) / RATE
        return HeardWord(
            min(max(word.start + moved, earliest), latest),
            min(max(word.end + moved, earliest), latest),
            word.text,
            word.confidence,
        )


def _with_breath(stretches: Sequence[tuple[int, int]], length: int) -> Iterator[tuple[int, int]]:
    """Yield each stretch with up to `_BREATH` around it, half of a shorter silence."""
    for number, (first, last) in enumerate(stretches):
        before = stretches[number - 1][1] if number else -first
        after = stretches[number + 1][0] if number + 1 < len(stretches) else 2 * length - last
        yield first - min(_BREATH, (first - before) // 2), last + min(_BREATH, (after - last) // 2)


def slices(sound: Sound, start: int = 0) -> Iterator[Slice]:
    """Yield the recording from sample ``start`` on, at most 300 s at a time.

    The same ``start`` gives the same slices.
    """
    while start < len(sound):
        end = min(start + LONGEST_SECONDS * RATE, len(sound))
        samples = sound.read(start, end)
        stretches = speech_in(samples)
        stop = len(samples)
        if end < len(sound):
            stretches, stop = _cut(stretches, stop)
        yield Slice(start, start + stop, Speech(samples, stretches, start))
        start += stop


def _cut(stretches: list[tuple[int, int]], length: int) -> tuple[list[tuple[int, int]], int]:
    """Leave the last stretch, which may go on, to the next slice; return where that begins."""
    if not stretches:
        return [], length - RATE  # A word may just begin.
    *before, (last_start, last_stop) = stretches
    if last_stop < length - RATE:
        return stretches, (last_stop + length) // 2
    if before and last_start > _EARLIEST_CUT:
        return before, (before[-1][1] + last_start) // 2
    return stretches, length
