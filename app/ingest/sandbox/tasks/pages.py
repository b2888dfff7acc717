"""The child's task that counts a PDF's pages."""

import ctypes
import mmap
from pathlib import Path
from typing import Any

import pypdfium2

from app.ingest.sandbox.child import Refused

_COUNT, _OTHER = b"/Count", b"/Cxunt"


def run(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"pages": n}`` for the file at ``arguments["path"]``, or refuse: ``unreadable``.

    PDFium believes the page tree's ``/Count``, and counts where there is none.  So it is given none
    to believe; that of a tree in a compressed stream is held against the pages that are there.
    """
    path = Path(arguments["path"])
    if path.stat().st_size == 0:
        raise Refused("unreadable")
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    at = content.find(_COUNT)
    while at >= 0:
        content[at : at + len(_COUNT)] = _OTHER
        at = content.find(_COUNT, at)
    try:
        document = pypdfium2.PdfDocument((ctypes.c_ubyte * len(content)).from_buffer(content))
    except pypdfium2.PdfiumError:
        raise Refused("unreadable") from None
    with document:
        pages = sum(_is_there(document, index) for index in range(len(document)))
    if pages < 1:
        raise Refused("unreadable")
    return {"pages": pages}


def _is_there(document: pypdfium2.PdfDocument, index: int) -> bool:
    try:
        document.get_page_size(index)
    except pypdfium2.PdfiumError:
        return False
    return True
