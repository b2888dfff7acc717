"""The custom scalars of the schema: UUID, DateTime, BigInt, Upload.

Annotate fields with `uuid.UUID`, `datetime.datetime`, `BigInt` and `Upload`; `SCALARS` goes into
`StrawberryConfig.scalar_map`.  A value that a scalar refuses is ``BAD_USER_INPUT``, whether it came
as a literal or as a variable.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NewType, NoReturn
from uuid import UUID

import strawberry
from graphql import GraphQLError, StringValueNode, ValueNode
from strawberry.types.scalar import ScalarDefinition

from app.errors import BadUserInput
from app.schema.kernel.error_format import BAD_USER_INPUT
from app.services.kernel.incoming import IncomingFile

BigInt = NewType("BigInt", int)
"""An integer that may exceed 32 bits, sent as a JSON number; exact up to 2**53 in JavaScript."""

Upload = IncomingFile
"""A file of a multipart request; nothing else can be one."""

_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_MAX_BIG_INT = 2**63 - 1


def parse_uuid(text: str, *path: str | int) -> UUID:
    """Return the UUID of its canonical text form, in either case, or raise `BadUserInput`.

    ``path`` names the argument that it is of: ``id`` where it is left out.
    """
    if not _CANONICAL_UUID.fullmatch(text):
        message = "An id must be a UUID such as 123e4567-e89b-42d3-a456-426614174000."
        raise BadUserInput(message, *(path or ("id",)))
    return UUID(text)


def parse_optional_uuid(text: str | None, *path: str | int) -> UUID | None:
    """Return the UUID as `parse_uuid` does; None where none is given."""
    return None if text is None else parse_uuid(text, *path)


def given(**values: str | None) -> dict[str, str | None]:
    """Return those fields of an input that were not left out; null is a value."""
    return {name: value for name, value in values.items() if value is not strawberry.UNSET}


def parse_uuids(texts: Sequence[str]) -> list[UUID]:
    """Return the UUIDs of the argument ``ids``, or raise `BadUserInput`."""
    return [parse_uuid(text, "ids", index) for index, text in enumerate(texts)]


def _refuse(message: str) -> NoReturn:
    raise GraphQLError(message, extensions={"code": BAD_USER_INPUT})


def _uuid_value(value: Any) -> UUID:
    if not isinstance(value, str) or not _CANONICAL_UUID.fullmatch(value):
        _refuse("A UUID such as 123e4567-e89b-42d3-a456-426614174000 is expected.")
    return UUID(value)


def _uuid_literal(node: ValueNode, _variables: Mapping[str, Any] | None = None) -> UUID:
    return _uuid_value(node.value if isinstance(node, StringValueNode) else None)


def _datetime_text(value: datetime) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _datetime_value(value: Any) -> datetime:
    try:
        parsed = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        _refuse("A time such as 2026-11-01T12:00:00Z is expected.")
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _datetime_literal(node: ValueNode, _variables: Mapping[str, Any] | None = None) -> datetime:
    return _datetime_value(node.value if isinstance(node, StringValueNode) else None)


def _big_int_value(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MAX_BIG_INT:
        _refuse("A 64-bit integer is expected.")
    return value


def _upload_value(value: Any) -> IncomingFile:
    if value is None or not hasattr(value, "chunks"):
        _refuse("A file is expected, sent as the GraphQL multipart request specification says.")
    file: IncomingFile = value
    return file


def _upload_literal(_node: ValueNode, _variables: Mapping[str, Any] | None = None) -> NoReturn:
    _refuse("A file can only be given through a variable of a multipart request.")


SCALARS: Mapping[object, ScalarDefinition] = {
    UUID: strawberry.scalar(
        name="UUID",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc9562",
        description="A UUID in its canonical text form.",
        serialize=str,
        parse_value=_uuid_value,
        parse_literal=_uuid_literal,
    ),
    datetime: strawberry.scalar(
        name="DateTime",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc3339",
        description="A moment in UTC as ISO 8601 tells it, such as 2026-11-01T12:00:00Z.",
        serialize=_datetime_text,
        parse_value=_datetime_value,
        parse_literal=_datetime_literal,
    ),
    BigInt: strawberry.scalar(
        name="BigInt",
        description="An integer that may exceed 32 bits, sent as a JSON number.",
        serialize=int,
        parse_value=_big_int_value,
    ),
    Upload: strawberry.scalar(
        name="Upload",
        description="A file, sent as the GraphQL multipart request specification says.",
        parse_value=_upload_value,
        parse_literal=_upload_literal,
    ),
}
