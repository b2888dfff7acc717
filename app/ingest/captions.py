"""A source's captions, as a transcript on the clock of the lecture's audio.

They are an extra: whatever is wrong with them is logged, and costs the lecture nothing.
"""

import asyncio
from collections.abc import Iterable, Sequence

import structlog
from pydantic import TypeAdapter, ValidationError

from app.domain import TranscriptionSource
from app.errors import IngestFailed
from app.ingest.model import CaptionSource, Edit
from app.ingest.net.guard import GuardedClient
from app.ingest.sandbox.run import ChildError, ChildKilled, Limits, run_child
from app.transcript.model import Segment, Transcript

log = structlog.get_logger(__name__)

_MOST_TRIED = 3
_TIMEOUT_SECONDS = 60.0
_MAX_BYTES = 8 * 1024 * 1024
_LIMITS = Limits(memory_bytes=1024**3, cpu_seconds=10, file_bytes=0)
_CHILD_TIMEOUT_SECONDS = 20.0
_MAX_ANSWER_BYTES = 32 * 1024 * 1024

Cue = tuple[float, float, str]
"""Start and end in seconds, and what is said: NFC, on one line, never empty."""

_WIRE: TypeAdapter[list[Cue]] = TypeAdapter(list[Cue])


async def fetch_captions(
    client: GuardedClient, sources: Sequence[CaptionSource], duration_seconds: float
) -> Transcript | None:
    """Return the first of the captions that have words within the audio; None where none have.

    At most three are tried, for a minute in all.  Raises nothing but cancellation.
    """
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            for source in sources[:_MOST_TRIED]:
                cues = await _read(client, source)
                segments = tuple(placed(cues, source.edits, duration_seconds))
                if segments:
                    kind, language = TranscriptionSource.CAPTIONS, source.language
                    return Transcript(kind, language, None, duration_seconds, segments)
    except TimeoutError:
        log.info("captions_failed", reason="TimeoutError")
    return None


async def _read(client: GuardedClient, source: CaptionSource) -> list[Cue]:
    """Return the cues in the order of their starts; none where they cannot be had or read."""
    try:
        fetched = await client.sending(source.headers).read(
            "GET", source.url, max_bytes=_MAX_BYTES, cookie_header=source.cookie_header
        )
        result = await run_child(
            "app.ingest.sandbox.tasks.captions",
            {},
            content=fetched.body,
            limits=_LIMITS,
            timeout_seconds=_CHILD_TIMEOUT_SECONDS,
            max_answer_bytes=_MAX_ANSWER_BYTES,
        )
        return _WIRE.validate_python(result["cues"])
    except (IngestFailed, ChildError, ChildKilled, ValidationError, OSError) as error:
        log.info("captions_failed", reason=type(error).__name__)
        return []


def placed(cues: Iterable[Cue], edits: Sequence[Edit], duration_seconds: float) -> list[Segment]:
    """Return the cues as the audio has them: cut and moved with the edits, without overlap.

    A cue across a cut is kept once, where most of it lies.  Cues that begin together are one.
    """
    moved = [new for cue in cues if (new := _moved(cue, edits))]
    starting: dict[float, Cue] = {}
    for start, end, text in sorted(moved, key=lambda cue: cue[:2]):
        start, end = max(start, 0.0), min(end, duration_seconds)
        if start >= end:
            continue
        if start in starting:
            _, other_end, before = starting[start]
            starting[start] = start, max(end, other_end), f"{before} {text}"
        else:
            starting[start] = start, end, text
    kept = list(starting.values())
    borders = [*(start for start, _, _ in kept), duration_seconds]
    return [
        Segment(start, min(end, borders[index]), text, None)
        for index, (start, end, text) in enumerate(kept, start=1)
    ]


def _moved(cue: Cue, edits: Sequence[Edit]) -> Cue | None:
    """Return the cue on the recording's clock; None where the edits leave it out."""
    if not edits:
        return cue
    start, end, text = cue
    best: tuple[float, float] | None = None
    place = 0.0
    for edit in edits:
        at = place if edit.at_seconds is None else edit.at_seconds
        place = at + edit.end_seconds - edit.start_seconds
        first, last = max(start, edit.start_seconds), min(end, edit.end_seconds)
        if last > first and (best is None or last - first > best[1] - best[0]):
            shift = at - edit.start_seconds
            best = first + shift, last + shift
    return (*best, text) if best else None
