"""Whether an answer is media or a web page: its bytes decide, its label is a hint."""

import re
from collections.abc import AsyncGenerator

import httpx

from app.domain import LectureFailure
from app.errors import IngestFailed
from app.ingest.guard import content_type
from app.ingest.http_failures import login_required, looks_like_login, unknown_form

_SNIFFED_BYTES = 512
_HTML = frozenset({"text/html", "application/xhtml+xml"})
_GZIP = frozenset({"gzip", "x-gzip"})
_COMPRESSIONS = frozenset({"deflate", "br", "zstd", "compress"})
_BLANK = b"\xef\xbb\xbf \t\r\n"
_PAGE = re.compile(
    rb"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|title|script|body)\b",
    re.IGNORECASE | re.DOTALL,
)
# Bytes that no text has (WHATWG MIME Sniffing, section 3).
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")


async def media_chunks(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Yield the answer's body, or raise as `require_media` does before a byte of it."""
    media_type, url = content_type(response), str(response.url)
    head: bytes | None = b""
    encoding = response.headers.get("content-encoding")
    async for chunk in response.aiter_raw():
        if head is None:
            yield chunk
            continue
        head += chunk
        if len(head) >= _SNIFFED_BYTES or not _may_be_page(media_type, head):
            require_media(media_type, url, head, encoding)
            yield head
            head = None
    if head is not None:
        require_media(media_type, url, head, encoding)
        yield head


def require_media(media_type: str, url: str, head: bytes, encoding: str | None = None) -> None:
    """Raise `IngestFailed` where the body that begins so is no media.

    LOGIN_REQUIRED for a page where people sign in, SOURCE_NOT_FOUND for any other page, and for
    what is compressed (``encoding``), whether or not that was asked for.
    """
    if _is_compressed(encoding, head):
        raise unknown_form()
    if not _is_page(media_type, head[:_SNIFFED_BYTES]):
        return
    if looks_like_login(url):
        raise login_required()
    raise IngestFailed(
        LectureFailure.SOURCE_NOT_FOUND, "The link leads to a web page, not to a recording."
    )


def _is_compressed(encoding: str | None, head: bytes) -> bool:
    """Whether it is what the label says; labels that name no compression say nothing.

    Stores repeat whatever was written beside a file (``aws-chunked``, ``utf-8``, ``none``).
    """
    names = {name.strip().lower() for name in (encoding or "").split(",")}
    return bool(names & _COMPRESSIONS or (names & _GZIP and head[:2] == b"\x1f\x8b"))


def _is_page(media_type: str, head: bytes) -> bool:
    if _PAGE.match(head.lstrip(_BLANK)):
        return True
    is_stream = head.lstrip(_BLANK).startswith(b"#EXTM3U")
    return media_type in _HTML and not is_stream and not _BINARY.search(head)


def _may_be_page(media_type: str, head: bytes) -> bool:
    """Whether more of the body could make a page of it."""
    return media_type in _HTML or head.lstrip(_BLANK)[:1] in (b"<", b"")
