"""Lists by the words that their rows have."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, true
from sqlalchemy.orm import InstrumentedAttribute

from app.errors import BadUserInput
from app.services.kernel.text import is_storable

MAX_SEARCH_CHARACTERS = 200
MAX_SEARCH_WORDS = 8


def has_words(
    search: str | None, columns: Iterable[InstrumentedAttribute[Any]]
) -> ColumnElement[bool]:
    """Return the condition that each word is in one of the columns, in any case of letters.

    Raises `BadUserInput`: each word is a comparison for each column of a row, so there may be few.
    """
    search = search or ""
    if len(search) > MAX_SEARCH_CHARACTERS or not is_storable(search):
        message = f"`search` must be text of at most {MAX_SEARCH_CHARACTERS} characters."
        raise BadUserInput(message, "search")
    words = search.split()
    if len(words) > MAX_SEARCH_WORDS:
        raise BadUserInput(f"`search` must be at most {MAX_SEARCH_WORDS} words.", "search")
    found = [[column.icontains(word, autoescape=True) for column in columns] for word in words]
    return and_(true(), *(or_(*each) for each in found))
