"""A transcript: segments of what was said, and the words in them.

Times are seconds from the beginning of the lecture's audio.  Segments follow each other without
overlap, each with ``start < end``; a pause belongs to none.  Confidence is 0 to 1, None where
nobody knows.
"""

from dataclasses import dataclass

from app.domain import TranscriptionSource


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it is written, with its punctuation and without space around it."""

    start: float
    end: float
    text: str
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Segment:
    """What is shown at once; ``words`` is empty where only the whole has times, as in captions."""

    start: float
    end: float
    text: str
    confidence: float | None
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Transcript:
    """The whole of it; ``language`` is a BCP 47 tag, ``model`` None for captions."""

    source: TranscriptionSource
    language: str | None
    model: str | None
    duration_seconds: float
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """All that was said, the segments joined by spaces; empty for silence."""
        return " ".join(segment.text for segment in self.segments)

    @property
    def confidence(self) -> float | None:
        """How sure its segments are, by their length; None where nobody knows."""
        sure = [(each.end - each.start, each.confidence) for each in self.segments]
        known = [(seconds, confidence) for seconds, confidence in sure if confidence is not None]
        total = sum(seconds for seconds, _ in known)
        return sum(seconds * each for seconds, each in known) / total if total else None
