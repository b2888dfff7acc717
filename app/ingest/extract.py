"""Audio extraction by PyAV, in a child process."""

import asyncio
from pathlib import Path
from typing import Any, NoReturn

import structlog

from app.cancellation import ended
from app.domain import LectureFailure
from app.errors import IngestFailed, StorageFull
from app.ingest.model import ExtractedAudio, RunStart, Segment
from app.ingest.sandbox.run import ChildCrashed, ChildRefused, ChildTimedOut, Limits, run_child

log = structlog.get_logger()

_MEMORY_BYTES = 2 * 1024**3
_FILE_BYTES = 8 * 1024**3

_REFUSALS = {
    "no_audio": (LectureFailure.NO_AUDIO, "The recording has no audio track."),
    "unreadable": (
        LectureFailure.NO_AUDIO,
        "The file is not a recording that can be read.",
    ),
    "truncated": (LectureFailure.TRUNCATED, "The recording is shorter than it says."),
}


class PyAvAudioExtractor:
    """`AudioExtractor`: AAC is copied, anything else encoded to AAC; both cut to the segments.

    A copy is cut at AAC frames (about 21 ms).  Disk full is `StorageFull`.
    """

    async def extract(
        self,
        source: Path,
        target: Path,
        segments: tuple[Segment, ...] = (),
        *,
        runs: tuple[RunStart, ...] = (),
        timeout_seconds: float,
    ) -> ExtractedAudio:
        """Write the audio track to ``target``; on an error or cancellation nothing is left."""
        try:
            arguments = _arguments(source, target, segments, runs)
            return await _run(arguments, target, timeout_seconds)
        except BaseException:
            # The child is gone by now, and if it was killed it has not cleaned up.
            await ended(asyncio.ensure_future(asyncio.to_thread(target.unlink, missing_ok=True)))
            raise


def _arguments(
    source: Path, target: Path, segments: tuple[Segment, ...], runs: tuple[RunStart, ...]
) -> dict[str, Any]:
    return {
        "source": str(source),
        "target": str(target),
        "segments": [(each.start_seconds, each.end_seconds, each.at_seconds) for each in segments],
        "runs": [(run.first_byte, run.start_seconds, run.slack_seconds) for run in runs],
    }


async def _run(arguments: dict[str, Any], target: Path, timeout_seconds: float) -> ExtractedAudio:
    limits = Limits(_MEMORY_BYTES, round(timeout_seconds) + 1, _FILE_BYTES)
    try:
        result = await run_child(
            "app.ingest.sandbox.tasks.audio",
            arguments,
            limits=limits,
            timeout_seconds=timeout_seconds,
        )
    except ChildRefused as refusal:
        _raise_refusal(refusal.code)
    except ChildTimedOut:
        raise IngestFailed(
            LectureFailure.TIMEOUT, "The recording took too long to process."
        ) from None
    except ChildCrashed as crash:
        log.warning("audio_child_crashed", code=crash.return_code, errors=crash.errors)
        _raise_internal()
    return ExtractedAudio(target, result["size_bytes"], result["duration_seconds"])


def _raise_refusal(code: str) -> NoReturn:
    if code == "storage_full":
        raise StorageFull
    if code not in _REFUSALS:
        log.warning("audio_child_refused", code=code)
        _raise_internal()
    failure, message = _REFUSALS[code]
    raise IngestFailed(failure, message) from None


def _raise_internal() -> NoReturn:
    raise IngestFailed(LectureFailure.INTERNAL, "The recording could not be processed.") from None
