"""The child's task that counts a PDF's pages."""

import ctypes
import io
import mmap
import re
from pathlib import Path
from typing import Any

import pypdfium2
from pypdfium2.raw import FPDF_REMOVE_SECURITY

from app.ingest.sandbox.child import Refused

_COUNT, _OTHER = b"/Count", b"/Cxunt"
_PACKED = b"/ObjStm"
_MOST_UNPACKED_BYTES = 128 * 1024 * 1024


def run(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"pages": n}`` for the file at ``arguments["path"]``, or refuse: ``unreadable``.

    PDFium believes the page tree's ``/Count``, and counts where there is none.  So it is given none
    to believe.  A tree may lie in a compressed stream, of which PDFium's own copy of the file has
    none; that of a PDF that is too large to be copied is held against the pages that are there.
    """
    path = Path(arguments["path"])
    if path.stat().st_size == 0:
        raise Refused("unreadable")
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    is_packed = content.find(_PACKED) >= 0 and len(content) <= _MOST_UNPACKED_BYTES
    try:
        document = _opened(memoryview(content))
        if is_packed:
            unpacked = io.BytesIO()
            document.save(unpacked, flags=FPDF_REMOVE_SECURITY)
            document = _opened(unpacked.getbuffer())
    except pypdfium2.PdfiumError:
        raise Refused("unreadable") from None
    pages = sum(_is_there(document, index) for index in range(len(document)))
    if pages < 1:
        raise Refused("unreadable")
    return {"pages": pages}


def _opened(content: memoryview) -> pypdfium2.PdfDocument:
    """Open what the buffer holds, in which no count is left to believe."""
    for found in re.finditer(_COUNT, content):
        content[found.start() : found.end()] = _OTHER
    return pypdfium2.PdfDocument((ctypes.c_ubyte * len(content)).from_buffer(content))


def _is_there(document: pypdfium2.PdfDocument, index: int) -> bool:
    try:
        document.get_page_size(index)
    except pypdfium2.PdfiumError:
        return False
    return True
