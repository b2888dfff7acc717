"""How many pages a PDF has, found out in a child process."""

from pathlib import Path

from app.ingest.sandbox.run import ChildError, Limits, run_child

_LIMITS = Limits(memory_bytes=1024**3, cpu_seconds=10, file_bytes=0)


async def count_pages(path: Path, *, timeout_seconds: float = 20) -> int | None:
    """Return the number of pages, or None where the PDF is too broken or too costly to parse.

    An encrypted PDF that wants a password counts as broken.  Raises `ChildKilled` where another
    time may tell more.
    """
    try:
        result = await run_child(
            "app.ingest.sandbox.tasks.pages",
            {"path": str(path)},
            limits=_LIMITS,
            timeout_seconds=timeout_seconds,
        )
    except ChildError:
        return None
    pages: int = result["pages"]
    return pages
