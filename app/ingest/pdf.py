"""What a PDF has, found out in a child process: how many pages, and what is written on them."""

import asyncio
import json
from pathlib import Path

from app.ingest.sandbox.run import ChildError, Limits, run_child

_LIMITS = Limits(memory_bytes=1024**3, cpu_seconds=10, file_bytes=0)
_TEXT_SECONDS = 60
_TEXT_LIMITS = Limits(memory_bytes=1024**3, cpu_seconds=90, file_bytes=64 * 1024**2)


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


async def page_texts(path: Path, output: Path) -> list[str] | None:
    """Return each page's text, in order: empty where there is none, as on a scan.

    The child writes to ``output``, which is gone afterwards.  What is beyond 5,000 pages, ten
    million characters or a minute is left out.  None where the PDF is too broken or too costly to
    parse.  Raises `ChildKilled` where another time may tell more.
    """
    try:
        await run_child(
            "app.ingest.sandbox.tasks.page_texts",
            {"path": str(path), "output": str(output), "seconds": _TEXT_SECONDS},
            limits=_TEXT_LIMITS,
            timeout_seconds=2 * _TEXT_SECONDS,
        )
        return await asyncio.to_thread(_read, output)
    except ChildError:
        return None
    finally:
        await asyncio.to_thread(output.unlink, missing_ok=True)


def _read(output: Path) -> list[str]:
    with output.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
