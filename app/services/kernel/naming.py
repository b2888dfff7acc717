"""Names and descriptions that users give to what is theirs alone."""

from collections.abc import Mapping

from app.domain import FieldErrorCode
from app.errors import InvalidInput
from app.services.kernel.text import is_storable, readable, shows_anything

MAX_NAME_CHARACTERS = 100
MAX_DESCRIPTION_CHARACTERS = 2000


def checked(given: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return what is given of ``name`` and ``description``, as it can be stored and read.

    A name that is null is as if it was not given; a description that is null or blank is none.
    Raises `InvalidInput`.
    """
    for field, text in given.items():
        if text is not None and not is_storable(text):
            message = f"The {field} has characters that are not text."
            raise InvalidInput.at(field, message, FieldErrorCode.MALFORMED)
    texts: dict[str, str | None] = {}
    name = given.get("name")
    if name is not None:
        texts["name"] = readable(name)
        if texts["name"] is None:
            raise InvalidInput.at("name", "The name is blank.", FieldErrorCode.REQUIRED)
        _require_short("name", texts["name"], MAX_NAME_CHARACTERS)
    if "description" in given:
        description = (given["description"] or "").strip()
        texts["description"] = description if shows_anything(description) else None
        _require_short("description", description, MAX_DESCRIPTION_CHARACTERS)
    return texts


def _require_short(field: str, text: str, limit: int) -> None:
    if len(text) > limit:
        message = f"The {field} is longer than {limit} characters."
        raise InvalidInput.at(field, message, FieldErrorCode.TOO_LONG)
