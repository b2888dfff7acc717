"""Where an MP4's audio samples lie, and the MP4 that they make alone.

The index (``moov``) is a stranger's, so a child process reads it; what comes back is checked here.
"""

import asyncio
import base64
from dataclasses import dataclass
from itertools import pairwise

from pydantic import BaseModel, ValidationError

from app.ingest.fetch.playlist import ByteRange
from app.ingest.sandbox.run import ChildError, ChildKilled, ChildRefused, Limits, run_child

_LIMITS = Limits(memory_bytes=1024**3, cpu_seconds=20, file_bytes=0)
_TIMEOUT_SECONDS = 30.0
_MAX_ANSWER_BYTES = 48 * 1024 * 1024


class NoAudioIndex(Exception):
    """The index cannot be used, for a reason that `audio_index_child` names."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class AudioIndex:
    """``header`` followed by the bytes of the spans, in order, is an MP4 with one audio track.

    Spans rise and do not touch.  ``starts_late_seconds`` is how long the file's other tracks run
    before the audio begins.
    """

    header: bytes
    spans: tuple[ByteRange, ...]
    starts_late_seconds: float

    @property
    def audio_bytes(self) -> int:
        """How many bytes the audio samples have."""
        return sum(span.length for span in self.spans)


class _Answer(BaseModel):
    header: str
    spans: list[tuple[int, int]]
    starts_late_seconds: float


async def read_audio_index(moov: bytes, size_bytes: int) -> AudioIndex:
    """Return what the ``moov`` box of a file of ``size_bytes`` says, or raise `NoAudioIndex`."""
    try:
        result = await run_child(
            "app.ingest.sandbox.tasks.audio_index",
            {"size_bytes": size_bytes},
            content=moov,
            limits=_LIMITS,
            timeout_seconds=_TIMEOUT_SECONDS,
            max_answer_bytes=_MAX_ANSWER_BYTES,
        )
        # In a thread: of an index of a day the answer is long, and the loop has others to serve.
        return await asyncio.to_thread(_checked, result, size_bytes)
    except ChildRefused as refusal:
        raise NoAudioIndex(refusal.code) from None
    except (ChildError, ChildKilled, ValidationError):
        raise NoAudioIndex("index_unreadable") from None


def _checked(result: object, size_bytes: int) -> AudioIndex:
    answer = _Answer.model_validate(result)
    spans = tuple(ByteRange(start, length) for start, length in answer.spans)
    # Whatever the child says, nothing but parts of the file is asked for, in their order.
    rising = all(one.end < other.start for one, other in pairwise(spans))
    filled = all(span.start >= 0 and span.length > 0 for span in spans)
    if not spans or not rising or not filled or spans[-1].end > size_bytes:
        raise NoAudioIndex("index_unreadable")
    return AudioIndex(base64.b64decode(answer.header), spans, answer.starts_late_seconds)
