"""Content-Range (RFC 9110, section 14.4), as servers write it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_RANGE = re.compile(
    r"(?:bytes)?[\s=:]*(\d{1,18})\s*-\s*(\d{1,18})\s*/\s*(\d{1,18}|\*)", re.IGNORECASE | re.ASCII
)
_SIZE = re.compile(r"(?:bytes)?[\s=:]*\*\s*/\s*(\d{1,18})", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class ContentRange:
    """Which bytes an answer has: ``end`` is the first that it has not; the size may be unknown."""

    start: int
    end: int
    size_bytes: int | None


def content_range(headers: Mapping[str, str]) -> ContentRange | None:
    """Return what a 206 says that it has, or None where it says nothing that can be."""
    match = _RANGE.fullmatch(headers.get("content-range", "").strip())
    if match is None:
        return None
    start, end = int(match[1]), int(match[2]) + 1
    size = None if match[3] == "*" else int(match[3])
    if start >= end or (size is not None and end > size):
        return None
    return ContentRange(start, end, size)


def size_at_416(headers: Mapping[str, str]) -> int | None:
    """Return the file's size where an answer without a range tells it."""
    match = _SIZE.fullmatch(headers.get("content-range", "").strip())
    return int(match[1]) if match else None
