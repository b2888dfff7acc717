"""What an answer or a file is: its first bytes decide, names and labels are hints."""

import asyncio
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Literal

import httpx

from app.domain import LectureFailure
from app.errors import IngestFailed
from app.ingest.failures import login_required, looks_like_login, unknown_form
from app.ingest.net.guard import content_type

_SNIFFED_BYTES = 1024
_HTML = frozenset({"text/html", "application/xhtml+xml"})
_GZIP = frozenset({"gzip", "x-gzip"})
_COMPRESSIONS = frozenset({"deflate", "br", "zstd", "compress"})
_MARK_OR_SPACE = b"\xef\xbb\xbf \t\r\n"
_MARKUP = re.compile(rb"<[!?a-zA-Z]")
# Bytes that no text has (WHATWG MIME Sniffing, section 3).
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_BOXES = frozenset(
    {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot"}
    | {b"sidx", b"ssix", b"emsg", b"prft", b"uuid"}
)
_MARK_BYTES = 12
_TS_PACKET_BYTES = 188
_SIGNATURES = (
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"OggS",
    b"fLaC",
    b"ID3",
    b"\x0bw",  # AC-3, E-AC-3
)

Form = Literal["playlist", "page", "media"]


def form_of(head: bytes) -> Form | None:
    """Return what begins so; None where that is not known, as of what is encrypted."""
    text = head.lstrip(_MARK_OR_SPACE)
    if text[:4].upper() == b"#EXT":
        return "playlist"
    if _MARKUP.match(text) and not _BINARY.search(head[:_SNIFFED_BYTES]):
        return "page"
    is_ts = head[:1] == b"\x47" == head[_TS_PACKET_BYTES : _TS_PACKET_BYTES + 1]
    is_media = is_ts or _is_frame(head) or head[4:8] in _BOXES or head.startswith(_SIGNATURES)
    is_media = is_media or head[8:12] == b"WAVE"
    return "media" if is_media else None


async def form_of_file(path: Path) -> Form | None:
    """Return what the file is."""

    def read() -> bytes:
        with path.open("rb") as file:
            return file.read(_SNIFFED_BYTES)

    return form_of(await asyncio.to_thread(read))


async def media_chunks(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Yield the answer's body, or raise as `require_media` does before a byte of it.

    The first chunk is long enough to tell what it is, if anything of it does.
    """
    head, chunks = b"", response.aiter_raw()
    try:
        async for chunk in chunks:
            head += chunk
            if not _may_tell_more(head):
                break
    except Exception:
        if form_of(head) == "media":  # The next answer goes on from there.
            yield head
        raise
    encoding = response.headers.get("content-encoding")
    require_media(content_type(response), str(response.url), head, encoding)
    yield head
    async for chunk in chunks:
        yield chunk


def require_media(media_type: str, url: str, head: bytes, encoding: str | None = None) -> None:
    """Raise `IngestFailed` where the body that begins so is no media.

    LOGIN_REQUIRED for a page where people sign in, SOURCE_NOT_FOUND for any other page, and for
    what is compressed (``encoding``), whether or not that was asked for.  Where the bytes do not
    tell, text is what its label says.
    """
    if _is_compressed(encoding, head):
        raise unknown_form()
    form = form_of(head)
    is_text = form is None and not _BINARY.search(head[:_SNIFFED_BYTES])
    if form != "page" and not (is_text and media_type in _HTML):
        return
    if looks_like_login(url):
        raise login_required()
    raise IngestFailed(
        LectureFailure.SOURCE_NOT_FOUND, "The link leads to a web page, not to a recording."
    )


def _may_tell_more(head: bytes) -> bool:
    """Whether what it is may be told by bytes that follow."""
    if len(head) >= _SNIFFED_BYTES or form_of(head):
        return False
    return len(head) < _MARK_BYTES or head[:1] == b"\x47" or not _BINARY.search(head)


def _is_compressed(encoding: str | None, head: bytes) -> bool:
    """Whether it is what the label says; labels that name no compression say nothing.

    Stores repeat whatever was written beside a file (``aws-chunked``, ``utf-8``, ``none``).
    """
    names = {name.strip().lower() for name in (encoding or "").split(",")}
    return bool(names & _COMPRESSIONS or (names & _GZIP and head[:2] == b"\x1f\x8b"))


def _is_frame(head: bytes) -> bool:
    """Whether a frame of MPEG audio begins so, ADTS included: 11 bits, then version and layer."""
    if len(head) < 2 or head[0] != 0xFF or head[1] < 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    return version != 1 and layer != 3  # Layer I is not met any more; a mark of UTF-16 is.
