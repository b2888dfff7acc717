"""From any error to the ``errors`` entry that a client sees: a code for each, masked where ours.

Every transport formats through `format_errors`, so that an error looks the same over HTTP, SSE and
WebSocket.
"""

from collections.abc import Iterable
from typing import Any

import structlog
from graphql import FieldNode, GraphQLError, GraphQLSyntaxError

from app.errors import BadUserInput, DomainError, RateLimited, StorageFull
from app.schema.kernel.problems import problem_of_argument

BAD_USER_INPUT = "BAD_USER_INPUT"
PARSE_FAILED = "GRAPHQL_PARSE_FAILED"
VALIDATION_FAILED = "GRAPHQL_VALIDATION_FAILED"
INTERNAL = "INTERNAL_SERVER_ERROR"

PUBLIC_CODES = frozenset(
    {
        BAD_USER_INPUT,
        PARSE_FAILED,
        VALIDATION_FAILED,
        "UNAUTHENTICATED",
        "FORBIDDEN",
        "NOT_FOUND",
        "PAYLOAD_TOO_LARGE",
        "PERSISTED_QUERY_NOT_FOUND",
        "RATE_LIMITED",
    }
)
"""The codes whose message clients see; whatever has another one is an internal error."""

MASKED_MESSAGE = "Internal server error."

# Validation messages quote the document; a huge literal must not come back at that length.
_MAX_MESSAGE_CHARACTERS = 1000

_log = structlog.get_logger(__name__)


def format_errors(
    errors: Iterable[GraphQLError], request_id: str, default_code: str = BAD_USER_INPUT
) -> list[dict[str, Any]]:
    """Return the response's ``errors``.

    ``default_code`` is for errors that graphql-core itself found in the request: what is wrong
    with a document is no bad input.
    """
    return [_format(error, request_id, default_code) for error in errors]


def format_exception(error: Exception, request_id: str) -> dict[str, Any]:
    """Return the ``errors`` entry of an error that belongs to no field."""
    return _format(GraphQLError(str(error), original_error=error), request_id, BAD_USER_INPUT)


def _format(error: GraphQLError, request_id: str, default_code: str) -> dict[str, Any]:
    cause = root_cause(error)
    code, message = _public(error, cause, default_code)
    extensions: dict[str, Any] = {"code": code}
    if code == INTERNAL:
        extensions["requestId"] = request_id
        path = ".".join(map(str, error.path or ()))
        _log.error("graphql_error", request_id=request_id, path=path, exc_info=cause or error)
    problems = (error.extensions or {}).get("problems")
    if isinstance(cause, BadUserInput) and cause.path:
        problems = [problem_of_argument(error, cause)]
    if problems:
        extensions["problems"] = [
            problem | {"message": problem["message"][:_MAX_MESSAGE_CHARACTERS]}
            for problem in problems
        ]
    if isinstance(cause, RateLimited):
        extensions["retryAfterSeconds"] = cause.retry_after_seconds
    entry: dict[str, Any] = {"message": message[:_MAX_MESSAGE_CHARACTERS]}
    if error.locations:
        entry["locations"] = [place.formatted for place in error.locations]
    if error.path is not None:
        entry["path"] = list(error.path)
    return entry | {"extensions": extensions}


def root_cause(error: GraphQLError) -> Exception | None:
    """Return what a resolver raised, or None where graphql-core found the error itself."""
    cause = error.original_error
    while isinstance(cause, GraphQLError):
        cause = cause.original_error
    return cause


def _public(error: GraphQLError, cause: Exception | None, default_code: str) -> tuple[str, str]:
    """Return the code and the message that the client gets."""
    if isinstance(cause, StorageFull):
        return INTERNAL, cause.message
    if isinstance(cause, DomainError):
        return (cause.code, cause.message) if cause.code in PUBLIC_CODES else _masked()
    # A field's result that does not fit its type is our fault, an argument is not; graphql-core
    # locates the one at the field, the other at the argument's value.
    at_field = bool(error.nodes) and isinstance(error.nodes[0], FieldNode)  # type: ignore[index]
    if cause is not None or (error.path is not None and at_field):
        return _masked()
    if isinstance(error, GraphQLSyntaxError):
        return PARSE_FAILED, error.message
    code = (error.extensions or {}).get("code")
    return (code if code in PUBLIC_CODES else default_code), error.message


def _masked() -> tuple[str, str]:
    return INTERNAL, MASKED_MESSAGE
