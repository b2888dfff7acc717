"""The child's task that says which of the extractors named in a setting yt-dlp does not have."""

from typing import Any

from app.ingest.sandbox.tasks.ytdlp import load


def run(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"unknown": […]}``: the globs of ``extractors`` that match no extractor's name."""
    return {"unknown": load().unknown(arguments["extractors"])}
