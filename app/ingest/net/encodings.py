"""Content encodings of HTTP answers, undone within a bound: a few bytes can be a bomb."""

import zlib

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # whichever the content begins as (zlib's manual, inflateInit2)


class UnknownEncoding(ValueError):
    """The content is encoded in a way that is not known, or not as it says."""


class TooLarge(ValueError):
    """The content is larger than it may be."""


def plain(content: bytes, encoding: str | None, max_bytes: int) -> bytes:
    """Return the content of an answer whose Content-Encoding is ``encoding`` (None: not sent).

    gzip and deflate are undone.  Raises `UnknownEncoding`, or `TooLarge` over ``max_bytes``.
    """
    name = (encoding or "identity").strip().lower()
    if name == "identity" or not content:
        return content
    if name not in {"gzip", "x-gzip", "deflate"}:
        raise UnknownEncoding(name)
    unzip = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        undone = unzip.decompress(content, max_bytes)
    except zlib.error as error:
        raise UnknownEncoding(str(error)) from error
    if unzip.unconsumed_tail:
        raise TooLarge
    if not unzip.eof:
        raise UnknownEncoding("the content is cut short")
    return undone
