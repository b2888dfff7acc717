"""Keyset pages: a cursor names the last row seen, so a page costs the same wherever it is.

A cursor is base64url of a JSON array, opaque to clients: the ordering columns' values of its row.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, and_, or_
from sqlalchemy.orm import InstrumentedAttribute

from app.errors import BadUserInput

MAX_PAGE_SIZE = 100
DEFAULT_PAGE_SIZE = 20

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """One page: each row with its cursor, and whether there are more on either side."""

    rows: tuple[Row, ...]
    cursors: tuple[str, ...]
    has_next: bool
    has_previous: bool


@dataclass(frozen=True, slots=True)
class Linked(Generic[Row]):
    """A row of a list, and when the viewer was linked to it; None in lists of everyone's."""

    row: Row
    linked_at: datetime | None


@dataclass(frozen=True, slots=True)
class TimeKey:
    """A position in an order by time (newest first) and id."""

    at: datetime
    id: UUID


@dataclass(frozen=True, slots=True)
class CodeKey:
    """A position in an order by code and id."""

    code: str
    id: UUID


def page_size(first: int | None) -> int:
    """Return the page size, or raise `BadUserInput` outside 1 to 100."""
    size = DEFAULT_PAGE_SIZE if first is None else first
    if not 1 <= size <= MAX_PAGE_SIZE:
        raise BadUserInput(f"`first` must be from 1 to {MAX_PAGE_SIZE}.", "first")
    return size


def encode(key: TimeKey | CodeKey) -> str:
    """Return the key as an opaque cursor."""
    position = key.at.isoformat() if isinstance(key, TimeKey) else key.code
    payload = json.dumps([position, key.id.hex], separators=(",", ":"))
    return base64.urlsafe_b64encode(payload.encode()).decode().rstrip("=")


def decode_time(cursor: str | None) -> TimeKey | None:
    """Return the position that the cursor names, or raise `BadUserInput`."""
    if cursor is None:
        return None
    position, row_id = _decode(cursor)
    try:
        at = datetime.fromisoformat(position)
        if at.tzinfo is None:
            raise BadUserInput(_BAD_CURSOR, "after")
        return TimeKey(at.astimezone(UTC), row_id)
    except (ValueError, OverflowError):
        raise BadUserInput(_BAD_CURSOR, "after") from None


def decode_code(cursor: str | None) -> CodeKey | None:
    """Return the position that the cursor names, or raise `BadUserInput`."""
    if cursor is None:
        return None
    code, row_id = _decode(cursor)
    if "\x00" in code:
        raise BadUserInput(_BAD_CURSOR, "after")
    return CodeKey(code, row_id)


_MAX_CURSOR_CHARACTERS = 2000
_BAD_CURSOR = "`after` is not a cursor of this list."


def _decode(cursor: str) -> tuple[str, UUID]:
    if len(cursor) > _MAX_CURSOR_CHARACTERS:
        raise BadUserInput(_BAD_CURSOR, "after")
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        position, row_id = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if not isinstance(position, str):
            raise BadUserInput(_BAD_CURSOR, "after")
        position.encode()
        return position, UUID(hex=row_id)
    except (ValueError, TypeError, AttributeError, binascii.Error, RecursionError):
        raise BadUserInput(_BAD_CURSOR, "after") from None


def make_page(
    rows: Sequence[Row], keys: Sequence[TimeKey | CodeKey], size: int, *, after: str | None
) -> Page[Row]:
    """Make a page of at most ``size`` rows out of up to ``size + 1`` that were read."""
    shown = tuple(rows[:size])
    cursors = tuple(encode(key) for key in keys[:size])
    return Page(shown, cursors, has_next=len(rows) > size, has_previous=after is not None)


def beyond(
    at: InstrumentedAttribute[datetime], row_id: InstrumentedAttribute[UUID], position: TimeKey
) -> ColumnElement[bool]:
    """Return the condition of the rows after the position, newest first and by id.

    It is written so that an index on (at DESC, id) serves it as one range.
    """
    return and_(at <= position.at, or_(at < position.at, row_id > position.id))
