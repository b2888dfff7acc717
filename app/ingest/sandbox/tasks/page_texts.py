"""The child's task that reads a PDF's text, page by page."""

import json
import re
import time
import unicodedata
from pathlib import Path
from typing import Any

import pypdfium2

from app.ingest.sandbox.child import Refused

_MOST_PAGES = 5000
_MOST_PAGE_CHARACTERS = 50_000
_MOST_CHARACTERS = 10_000_000
# What PDFium writes for a hyphen at a line's end, the soft hyphen, and the plain one there.
_HYPHENATED = re.compile(r"(?<=\w)(?:[\ufffe\u00ad]\s*|-[ \t]*\r?\n\s*)(?=[^\W\d_])")
_LINE_END = re.compile(r"[ \t]*\r?\n[ \t]*")


def run(arguments: dict[str, Any]) -> dict[str, Any]:
    """Write the pages of ``path`` to ``output``: a line of JSON each, a string, empty without text.

    Returns ``{"pages": n}``, how many were written: what does not fit into ``seconds``, 5,000 pages
    or ten million characters is left out.  A page that cannot be read has no text.  Refuses a file
    that is no PDF: ``unreadable``.
    """
    ends_at = time.monotonic() + arguments["seconds"]
    try:
        document = pypdfium2.PdfDocument(arguments["path"])
    except (pypdfium2.PdfiumError, FileNotFoundError):
        raise Refused("unreadable") from None
    left, pages = _MOST_CHARACTERS, 0
    with Path(arguments["output"]).open("w", encoding="utf-8") as output:
        for number in range(min(len(document), _MOST_PAGES)):
            if left <= 0 or time.monotonic() > ends_at:
                break
            text = _text_of(document, number)[:left]
            left -= len(text)
            pages += 1
            output.write(json.dumps(text) + "\n")
    return {"pages": pages}


def _text_of(document: pypdfium2.PdfDocument, number: int) -> str:
    try:
        page = document.get_page(number)
        try:
            content = page.get_textpage()
            try:
                count = min(content.count_chars(), _MOST_PAGE_CHARACTERS)
                return _mended(content.get_text_range(0, count)) if count > 0 else ""
            finally:
                content.close()
        finally:
            page.close()
    except pypdfium2.PdfiumError:
        return ""


def _mended(text: str) -> str:
    """Return the text as one would write it: words whole, lines by ``\\n``, nothing invisible."""
    text = _HYPHENATED.sub("", text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    # NFKC takes ligatures apart; it is what search compares, too.
    text = unicodedata.normalize("NFKC", _LINE_END.sub("\n", text))
    kept = (char for char in text if char == "\n" or unicodedata.category(char) not in _INVISIBLE)
    return "".join(kept).strip()


_INVISIBLE = {"Cc", "Cs", "Co", "Cn"}
