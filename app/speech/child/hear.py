"""The child's task that hears a recording: tells its parent each window as soon as it has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from app.domain import TranscriptionWarning
from app.ingest.sandbox.questions import Questions
from app.speech import gate
from app.speech.child.recognizer import Passage, Recognizer, loaded, speech_in
from app.speech.child.slices import Slice, Speech, slices
from app.speech.child.sound import RATE, Samples, Sound
from app.speech.languages import tag_of
from app.speech.segments import HeardWord, segments_of
from app.speech.transcriber import OPENING, WINDOW, Opening, Window

_LOOKS = 5
_LOOK_SECONDS = 40
_LEAST_SURE = 0.6
_MOST_UNHEARD = 0.4
_HOLE_SECONDS = 5.0

Tell = Callable[..., object]


def run(arguments: dict[str, Any]) -> dict[str, Any]:
    """Hear what is in ``audio`` from second ``start`` on.

    The parent is told ``{"heard": seconds}`` as it goes, ``{"tells": "opening"}`` unless it
    ``has_opening``, and ``{"tells": "window"}`` for each slice.  Those two are the body, in JSON: a
    window may be longer than a head.
    """
    tell = Questions(arguments["descriptor"]).ask
    with Sound(Path(arguments["audio"])) as sound:
        recognizer = loaded(arguments["model"])
        language = arguments["language"]
        if not arguments["has_opening"]:
            language, warnings = _opening(sound, recognizer, language)
            opening = Opening(language and tag_of(language), len(sound) / RATE, warnings)
            tell({"tells": "opening"}, OPENING.dump_json(opening))
        for part in slices(sound, round(arguments["start"] * RATE)):
            window = _Hearing(recognizer, language or "", part, tell).window()
            tell({"tells": "window"}, WINDOW.dump_json(window))
    return {}


def _opening(
    sound: Sound, recognizer: Recognizer, language: str | None
) -> tuple[str | None, frozenset[TranscriptionWarning]]:
    """Return the language, by the vote of windows with speech where none is forced.

    None where nobody speaks.
    """
    warnings = {TranscriptionWarning.PARTIAL_AUDIO} if sound.is_partial else set()
    if language is None:
        votes = [recognizer.languages_of(samples) for samples in _looks(sound)]
        total: Counter[str] = Counter()
        for vote in votes:
            total.update(vote)
        if not total:
            return None, frozenset(warnings)
        ((language, weight),) = total.most_common(1)
        if weight / len(votes) < _LEAST_SURE:
            warnings.add(TranscriptionWarning.LANGUAGE_UNCERTAIN)
    return language, frozenset(warnings)


def _looks(sound: Sound) -> Iterator[Samples]:
    """Yield speech from all over the recording: no silent or foreign opening decides alone.

    Where a few looks find none, the first slice that has some is what is heard.
    """
    found = False
    step = max(len(sound) // _LOOKS, _LOOK_SECONDS * RATE)
    for start in range(0, len(sound), step):
        samples = sound.read(start, min(start + _LOOK_SECONDS * RATE, len(sound)))
        speech = Speech(samples, speech_in(samples), start)
        if speech.seconds >= 1:
            found = True
            yield speech.samples
    if not found:
        for part in slices(sound):
            if len(part.speech.samples):
                yield part.speech.samples
                return


class _Hearing:
    """One slice, heard."""

    def __init__(self, recognizer: Recognizer, language: str, part: Slice, tell: Tell) -> None:
        self._recognizer = recognizer
        self._language = language
        self._part = part
        self._tell = tell
        self._is_unsure = False

    def window(self) -> Window:
        """Return what was said in the slice."""
        words = self._words() if len(self._part.speech.samples) else []
        start, end = self._part.start / RATE, self._part.stop / RATE
        segments = tuple(segments_of(words, start, end))
        is_unsure = self._is_unsure and bool(segments)
        warnings = frozenset({TranscriptionWarning.LOW_CONFIDENCE} if is_unsure else ())
        return Window(start, end, segments, warnings)

    def _words(self) -> list[HeardWord]:
        speech = self._part.speech
        heard: list[HeardWord] = []
        for passage in self._recognizer.passages(speech.samples, self._language):
            self._tell({"heard": speech.second_at(passage.end)})
            heard += self._judged(passage)
        for start, end in _holes(heard, speech.seconds):
            heard += self._again(start, end)
        heard.sort(key=lambda word: word.start)
        unheard = sum(end - start for start, end in _holes(heard, speech.seconds))
        self._is_unsure = self._is_unsure or unheard > _MOST_UNHEARD * speech.seconds
        return speech.in_recording([speech.tight(word) for word in heard])

    def _judged(self, passage: Passage) -> Sequence[HeardWord]:
        """Return the passage's words: heard again where they loop, none where it is no text."""
        if _is_nothing(passage):
            return ()
        if gate.is_loop(passage.text):
            again = self._again(passage.start, passage.end)
            if again and not gate.is_loop("".join(word.text for word in again)):
                return again
            self._is_unsure = True
        self._is_unsure = self._is_unsure or _is_unsure(passage)
        return passage.words

    def _again(self, start: float, end: float) -> list[HeardWord]:
        """Hear the stretch once more, differently; keep what is sure of itself."""
        samples = self._part.speech.samples[round(start * RATE) : round(end * RATE)]
        words: list[HeardWord] = []
        for passage in self._recognizer.passages(samples, self._language, differently=True):
            if not _is_nothing(passage) and not _is_unsure(passage):
                words += [
                    HeardWord(word.start + start, word.end + start, word.text, word.confidence)
                    for word in passage.words
                ]
        return words


def _is_nothing(passage: Passage) -> bool:
    return gate.is_no_text(passage.text) or gate.is_silence(
        passage.log_probability, passage.no_speech_probability
    )


def _is_unsure(passage: Passage) -> bool:
    return gate.is_unsure(passage.log_probability, passage.compression_ratio, passage.confidence)


def _holes(words: Sequence[HeardWord], seconds: float) -> list[tuple[float, float]]:
    """Return the stretches of speech in which nothing was heard for long."""
    borders = [0.0, *(each for word in words for each in (word.start, word.end)), seconds]
    return [
        (end, start)
        for end, start in zip(borders[::2], borders[1::2], strict=True)
        if start - end >= _HOLE_SECONDS
    ]
