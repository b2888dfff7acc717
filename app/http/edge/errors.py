"""Errors of the HTTP edge, in the form that GraphQL clients read: ``{"errors": […]}``.

The table of codes is that of the API's contract; what it has no code for is masked as ours.
"""

from collections.abc import Mapping
from typing import Any

import structlog
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from app.errors import DomainError, RateLimited, StorageFull, Unauthenticated
from app.http.graphql.negotiation import ResponseType, response_type
from app.schema.kernel.error_format import INTERNAL, MASKED_MESSAGE

_log = structlog.get_logger(__name__)

GRAPHQL_PATH = "/graphql"

_STATUS = {
    "UNAUTHENTICATED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "BAD_USER_INPUT": 400,
    "PAYLOAD_TOO_LARGE": 413,
    "RATE_LIMITED": 429,
}
_CODES = {status: code for code, status in _STATUS.items()}
# Up to here an unread body is skipped, and the connection lives on.
_SKIPPED_BODY_BYTES = 64 * 1024


def error_response(
    scope: Scope,
    code: str,
    message: str,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the JSON error; an internal one carries the request's id to find it in the logs."""
    extensions: dict[str, Any] = {"code": code}
    if code == INTERNAL:
        extensions["requestId"] = scope.get("state", {}).get("request_id")
    accept = Headers(scope=scope).get("accept", "") if scope.get("path") == GRAPHQL_PATH else ""
    asked = response_type(accept, subscription=False)
    return JSONResponse(
        {"errors": [{"message": message, "extensions": extensions}]},
        status_code=status or _STATUS.get(code, 500),
        headers=dict(headers or {}),
        media_type=ResponseType.JSON if asked is ResponseType.EVENTS else asked,
    )


def internal_error_response(scope: Scope, status: int = 500) -> Response:
    """Return the masked answer to a fault of ours."""
    return error_response(scope, INTERNAL, MASKED_MESSAGE, status=status)


def unavailable_response(scope: Scope) -> Response:
    """Return the answer to a request that the stopping server cannot finish."""
    message = "The service is being restarted. Try again."
    headers = {"Connection": "close", "Retry-After": "1"}
    return error_response(scope, INTERNAL, message, status=503, headers=headers)


def domain_error_response(scope: Scope, error: DomainError) -> Response:
    """Return the answer to a domain error that no resolver's union took."""
    if isinstance(error, StorageFull):
        return error_response(scope, INTERNAL, error.message, status=507)
    if error.code not in _STATUS:
        _log.error("request.failed", code=error.code, exc_info=error)
        return internal_error_response(scope)
    return error_response(scope, error.code, error.message, headers=error_headers(error))


def error_headers(error: DomainError) -> dict[str, str]:
    """Return what the error says to programs that read no body."""
    if isinstance(error, RateLimited):
        return {"Retry-After": str(error.retry_after_seconds)}
    return {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthenticated) else {}


def refusal(scope: Scope, error: DomainError) -> Response:
    """Return the answer to a request that is turned away with its body unread.

    A short body is left for the server to skip; a long one ends the connection with the answer.
    """
    response = domain_error_response(scope, error)
    for name, value in scope["headers"]:
        # The server has made sure that a length is digits.
        is_long = name == b"content-length" and int(value[:20]) > _SKIPPED_BODY_BYTES
        if is_long or name == b"transfer-encoding":
            response.headers["Connection"] = "close"
    return response


async def on_domain_error(request: Request, error: Exception) -> Response:
    """Handle a `DomainError` that a route raised."""
    assert isinstance(error, DomainError)  # noqa: S101 - registered for that class alone
    return domain_error_response(request.scope, error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Handle the framework's own refusals: no such route, method not allowed, and their like."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for that class alone
    status = error.status_code
    if status >= 500:
        return internal_error_response(request.scope, status)
    code = _CODES.get(status, "BAD_USER_INPUT")
    return error_response(
        request.scope, code, str(error.detail), status=status, headers=error.headers
    )


async def on_invalid_request(request: Request, error: Exception) -> Response:
    """Handle parameters that the framework could not decode."""
    return error_response(request.scope, "BAD_USER_INPUT", "The request is not valid.", status=422)
