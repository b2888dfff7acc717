"""What turns a lecture's audio into words, as the rest of the service knows it.

A recording is heard window by window.  The caller keeps what is yielded, and hands it over again
after an interruption: the work goes on with the first window that is not there.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter

from app.domain import TranscriptionFailure, TranscriptionWarning
from app.transcript.model import Segment


@dataclass(frozen=True, slots=True)
class SpeechModel:
    """A model as the configuration names it.

    ``languages`` are BCP 47 tags; empty for one that detects any of its own.  ``version`` changes
    with the weights.
    """

    name: str
    version: str
    languages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Opening:
    """What is known before the first window: the language, and how much sound there is.

    ``language`` is None where nobody speaks.
    """

    language: str | None
    duration_seconds: float
    warnings: frozenset[TranscriptionWarning] = frozenset()


@dataclass(frozen=True, slots=True)
class Window:
    """What was heard from ``start`` to ``end`` (seconds); windows follow each other without gap."""

    start: float
    end: float
    segments: tuple[Segment, ...]
    warnings: frozenset[TranscriptionWarning] = frozenset()


OPENING = TypeAdapter(Opening)
WINDOW = TypeAdapter(Window)
"""From and to JSON, as they are kept and told."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What an interrupted run has left."""

    opening: Opening | None = None
    windows: Sequence[Window] = field(default=())


class SpeechFailed(Exception):
    """The audio cannot be heard.  ``message`` is for people; a transient one may be tried again."""

    def __init__(
        self, failure: TranscriptionFailure, message: str, *, transient: bool = False
    ) -> None:
        super().__init__(message)
        self.failure = failure
        self.message = message
        self.transient = transient


class Transcriber(Protocol):
    """Hears speech, in a child process of its own for each recording."""

    @property
    def models(self) -> Sequence[SpeechModel]:
        """Those that there are, the default first; none where nothing is configured."""
        ...

    def supports(self, model: str, language: str) -> bool:
        """Whether the model can be told to hear that language (BCP 47)."""
        ...

    def transcribe(
        self,
        audio: Path,
        *,
        model: str,
        language: str | None,
        heard: Heard,
        report: Callable[[float], Awaitable[None]],
    ) -> AsyncGenerator[Opening | Window, None]:
        """Yield the opening, where ``heard`` has none, then each window that it has not.

        ``report`` is told the seconds heard so far, within windows too.  Raises `SpeechFailed`.
        Closing the generator, or cancelling who reads it, kills the child at once.
        """
        ...
