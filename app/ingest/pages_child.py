"""The child's task that counts a PDF's pages."""

from typing import Any

import pypdfium2

from app.ingest.child_process import Refused


def run(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"pages": n}`` for the file at ``arguments["path"]``, or refuse: ``unreadable``."""
    try:
        document = pypdfium2.PdfDocument(arguments["path"])
    except pypdfium2.PdfiumError:
        raise Refused("unreadable") from None
    with document:
        pages = len(document)
    if pages < 1:
        raise Refused("unreadable")
    return {"pages": pages}
