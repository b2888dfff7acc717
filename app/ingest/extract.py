"""Audio extraction by PyAV, in a child process."""

import asyncio
from pathlib import Path

import structlog

from app.cancellation import ended
from app.domain import LectureFailure
from app.errors import IngestFailed, StorageFull
from app.ingest.model import Edit, ExtractedAudio, RunStart
from app.ingest.sandbox.run import (
    ChildCrashed,
    ChildError,
    ChildRefused,
    ChildTimedOut,
    Limits,
    run_child,
)

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
    """`AudioExtractor`: AAC is copied, anything else encoded to AAC; both cut to the edits.

    A copy is cut at AAC frames (about 21 ms).  Disk full is `StorageFull`.
    """

    async def extract(
        self,
        source: Path,
        target: Path,
        edits: tuple[Edit, ...] = (),
        *,
        runs: tuple[RunStart, ...] = (),
        timeout_seconds: float,
    ) -> ExtractedAudio:
        """Write the audio track to ``target``; on an error or cancellation nothing is left."""
        try:
            result = await run_child(
                "app.ingest.sandbox.tasks.audio",
                {
                    "source": str(source),
                    "target": str(target),
                    "edits": [
                        (each.start_seconds, each.end_seconds, each.at_seconds) for each in edits
                    ],
                    "runs": [
                        (run.first_byte, run.start_seconds, run.slack_seconds) for run in runs
                    ],
                },
                limits=Limits(_MEMORY_BYTES, round(timeout_seconds) + 1, _FILE_BYTES),
                timeout_seconds=timeout_seconds,
            )
            return ExtractedAudio(target, result["size_bytes"], result["duration_seconds"])
        except BaseException as error:
            # The child is gone by now, and if it was killed it has not cleaned up.
            await ended(asyncio.ensure_future(asyncio.to_thread(target.unlink, missing_ok=True)))
            if isinstance(error, ChildError):
                raise _failure_of(error) from None
            raise


def _failure_of(error: ChildError) -> IngestFailed | StorageFull:
    """Return what the extractor promises where the child has ended so."""
    match error:
        case ChildTimedOut():
            return IngestFailed(LectureFailure.TIMEOUT, "The recording took too long to process.")
        case ChildRefused(code="storage_full"):
            return StorageFull()
        case ChildRefused(code=code) if code in _REFUSALS:
            return IngestFailed(*_REFUSALS[code])
        case ChildRefused(code=code):
            log.warning("audio_child_refused", code=code)
        case ChildCrashed():
            log.warning("audio_child_crashed", code=error.return_code, errors=error.errors)
    return IngestFailed(LectureFailure.INTERNAL, "The recording could not be processed.")
