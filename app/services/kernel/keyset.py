"""Keyset pages: a cursor names the last row seen, so a page costs the same wherever it is.

A cursor is base64url of a JSON array, opaque to clients: the ordering columns' values of its row.
"""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, or_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.errors import BadUserInput

MAX_PAGE_SIZE = 100
DEFAULT_PAGE_SIZE = 20

Row = TypeVar("Row")
Shaped = TypeVar("Shaped")


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
    # Not escaped: a name of a hundred letters must fit.
    payload = json.dumps([position, key.id.hex], separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(payload.encode()).decode().rstrip("=")


def decode_time(cursor: str) -> TimeKey:
    """Return the position that the cursor names, or raise `BadUserInput`."""
    position, row_id = _decode(cursor)
    try:
        at = datetime.fromisoformat(position)
        if at.tzinfo is None:
            raise BadUserInput(_BAD_CURSOR, "after")
        return TimeKey(at.astimezone(UTC), row_id)
    except (ValueError, OverflowError):
        raise BadUserInput(_BAD_CURSOR, "after") from None


def decode_code(cursor: str) -> CodeKey:
    """Return the position that the cursor names, or raise `BadUserInput`."""
    code, row_id = _decode(cursor)
    if "\x00" in code:
        raise BadUserInput(_BAD_CURSOR, "after")
    return CodeKey(code, row_id)


def number_key(number: int) -> CodeKey:
    """Return the position of a row in a list that is numbered from 0."""
    return CodeKey(str(number), UUID(int=0))


def decode_number(cursor: str) -> int:
    """Return the number that the cursor of a numbered list names, or raise `BadUserInput`."""
    number = decode_code(cursor).code
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise BadUserInput(_BAD_CURSOR, "after")
    return int(number)


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


@dataclass(frozen=True, slots=True)
class NewestFirst:
    """An order by time and, where that is the same, by id."""

    at: InstrumentedAttribute[datetime]
    row_id: InstrumentedAttribute[UUID]

    @property
    def place(self) -> tuple[Any, Any]:
        """The columns that tell where a row stands."""
        return self.at, self.row_id

    @property
    def columns(self) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
        """What the rows are ordered by."""
        return self.at.desc(), self.row_id.asc()

    def after(self, cursor: str) -> ColumnElement[bool]:
        """Return the condition of the rows after the cursor, or raise `BadUserInput`.

        It is written so that an index on (at DESC, id) serves it as one range.
        """
        position = decode_time(cursor)
        return and_(self.at <= position.at, or_(self.at < position.at, self.row_id > position.id))

    def key(self, at: datetime, row_id: UUID) -> TimeKey:
        """Return the position of a row."""
        return TimeKey(at, row_id)


@dataclass(frozen=True, slots=True)
class ByCode:
    """An order by code and id."""

    code: InstrumentedAttribute[str]
    row_id: InstrumentedAttribute[UUID]

    @property
    def place(self) -> tuple[Any, Any]:
        """The columns that tell where a row stands."""
        return self.code, self.row_id

    @property
    def columns(self) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
        """What the rows are ordered by."""
        return self.code.asc(), self.row_id.asc()

    def after(self, cursor: str) -> ColumnElement[bool]:
        """Return the condition of the rows after the cursor, or raise `BadUserInput`."""
        position = decode_code(cursor)
        return or_(
            self.code > position.code, and_(self.code == position.code, self.row_id > position.id)
        )

    def key(self, code: str, row_id: UUID) -> CodeKey:
        """Return the position of a row."""
        return CodeKey(code, row_id)


async def read_page(
    session: AsyncSession,
    query: Select[*tuple[Any, ...]],
    order: NewestFirst | ByCode,
    make: Callable[[Any], Shaped],
    first: int | None,
    after: str | None,
) -> Page[Shaped]:
    """Return the page of the query's rows, in the order, that follows the cursor.

    ``make`` takes a row of the query.  Raises `BadUserInput` for a size or cursor that is none.
    """
    size = page_size(first)
    if after is not None:
        query = query.where(order.after(after))
    query = query.add_columns(*order.place).order_by(*order.columns)
    rows = (await session.execute(query.limit(size + 1))).all()
    keys = [order.key(row[-2], row[-1]) for row in rows]
    return make_page([make(row) for row in rows], keys, size, after=after)
