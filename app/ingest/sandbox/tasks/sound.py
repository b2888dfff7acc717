"""The child's task that tells whether a stream, of which the beginning is there, may have sound."""

import io
from typing import Any

import av

from app.ingest.sandbox.media.track import INPUT


def run(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"may_sound"}`` for ``content``: False where it names tracks, and pictures alone."""
    try:
        with av.open(
            io.BytesIO(arguments["content"]), options=INPUT, metadata_errors="replace"
        ) as container:
            kinds = {stream.type for stream in container.streams}
    except av.FFmpegError:
        kinds = set()
    return {"may_sound": not kinds or not kinds <= {"video", "subtitle"}}
