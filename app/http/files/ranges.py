"""Conditional and range requests (RFC 9110, 13 and 14) as a pure decision: headers in, answer out.

Entity tags are compared as opaque strings, quotes included.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

_ENTITY_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_RANGE_SPEC = re.compile(r"([0-9]*)-([0-9]*)", re.ASCII)
# More digits than any size has, and fewer than would make int() refuse or take long.
_MAX_DIGITS = 20


@dataclass(frozen=True, slots=True)
class Representation:
    """What is served: its size, its strong entity tag (quoted), and its last change."""

    size_bytes: int
    etag: str
    modified_at: datetime

    @property
    def last_modified(self) -> str:
        """Return ``modified_at`` as an HTTP date."""
        whole_second = self.modified_at.astimezone(UTC).replace(microsecond=0)
        return format_datetime(whole_second, usegmt=True)


@dataclass(frozen=True, slots=True)
class Whole:
    """200: all of it."""


@dataclass(frozen=True, slots=True)
class Part:
    """206: the bytes ``start`` to ``end`` (exclusive), at least one."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class NotModified:
    """304: the client has it."""


@dataclass(frozen=True, slots=True)
class PreconditionFailed:
    """412: it is not what the client expects."""


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """416: no byte of it lies in the range."""


Decision = Whole | Part | NotModified | PreconditionFailed | Unsatisfiable


def decide(method: str, headers: Mapping[str, str], target: Representation) -> Decision:
    """Return what a GET or HEAD with these headers (any case-blind mapping) is answered with.

    The order of precedence is that of RFC 9110, 13.2.2.  A set of several ranges is answered whole,
    which the RFC allows: no set of overlapping ranges can then multiply the bytes sent.
    """
    if not _precondition_holds(headers, target):
        return PreconditionFailed()
    if _is_unmodified(headers, target):
        return NotModified()
    if method != "GET" or "range" not in headers or not _range_applies(headers, target):
        return Whole()
    return _select(headers["range"], target.size_bytes)


def _precondition_holds(headers: Mapping[str, str], target: Representation) -> bool:
    if "if-match" in headers:
        return _lists(headers["if-match"], target.etag, weak=False)
    since = _date(headers.get("if-unmodified-since"))
    return since is None or _seconds(target.modified_at) <= _seconds(since)


def _is_unmodified(headers: Mapping[str, str], target: Representation) -> bool:
    if "if-none-match" in headers:
        return _lists(headers["if-none-match"], target.etag, weak=True)
    since = _date(headers.get("if-modified-since"))
    return since is not None and _seconds(target.modified_at) <= _seconds(since)


def _range_applies(headers: Mapping[str, str], target: Representation) -> bool:
    """If-Range: the tag by strong comparison, or the very date that was sent as Last-Modified.

    The date is a strong validator here, since stored bytes never change under their document.
    """
    condition = headers.get("if-range")
    if condition is None:
        return True
    if '"' in condition:
        return condition.strip() == target.etag
    since = _date(condition)
    return since is not None and _seconds(since) == _seconds(target.modified_at)


def _lists(value: str, etag: str, *, weak: bool) -> bool:
    """Tell whether the list of entity tags, or ``*``, names this one; a malformed list does not."""
    if value.strip() == "*":
        return True
    tags = [tag.strip() for tag in value.split(",")]
    parsed = [match for tag in tags if (match := _ENTITY_TAG.fullmatch(tag))]
    return any(match[2] == etag and (weak or not match[1]) for match in parsed)


def _select(value: str, size: int) -> Decision:
    """Apply a Range header; what is not understood is ignored (RFC 9110, 14.2)."""
    unit, separator, specs = value.partition("=")
    if unit.strip().lower() != "bytes" or not separator:
        return Whole()
    ranges = [_parsed(spec.strip()) for spec in specs.split(",") if spec.strip()]
    if not ranges or None in ranges:
        return Whole()
    satisfiable = [part for bounds in ranges if bounds and (part := _clamped(*bounds, size))]
    if not satisfiable:
        return Unsatisfiable()
    return satisfiable[0] if len(ranges) == 1 else Whole()


def _parsed(spec: str) -> tuple[int | None, int | None] | None:
    """Return first and last position (None where left out), or None where it is no valid range."""
    match = _RANGE_SPEC.fullmatch(spec)
    if not match or spec == "-":
        return None
    first, last = (_number(digits) if digits else None for digits in match.groups())
    if first is not None and last is not None and last < first:
        return None
    return first, last


def _number(digits: str) -> int:
    significant = digits.lstrip("0") or "0"
    return int(significant) if len(significant) <= _MAX_DIGITS else int("9" * _MAX_DIGITS)


def _clamped(first: int | None, last: int | None, size: int) -> Part | None:
    if first is None:
        start, end = max(size - (last or 0), 0), size
    else:
        start, end = first, size if last is None else min(last + 1, size)
    return Part(start, end) if start < end else None


def _date(value: str | None) -> datetime | None:
    """Return the HTTP date, or None where there is none or it is no date (then it is ignored)."""
    if not value:
        return None
    try:
        parsed = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
