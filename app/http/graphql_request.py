"""From JSON to a `GraphQLRequest`: the shape that GraphQL over HTTP and graphql-transport-ws share.

https://graphql.github.io/graphql-over-http/draft/#sec-Request-Parameters
"""

from typing import Any

import orjson

from app.errors import MalformedRequest
from app.http.operations import GraphQLRequest


def parse_json(content: bytes | str) -> Any:
    """Return the JSON value, or raise `MalformedRequest`.

    orjson is strict where it matters: no NaN, no lone surrogates, no invalid UTF-8, and a limit on
    nesting that is not the interpreter's.
    """
    try:
        return orjson.loads(content)
    except ValueError:
        raise MalformedRequest("The body is not valid JSON.") from None


def request_from(parameters: object) -> GraphQLRequest:
    """Return the request, or raise `MalformedRequest` where a parameter is missing or mistyped."""
    if isinstance(parameters, list):
        raise MalformedRequest("Batches of operations are not supported.")
    if not isinstance(parameters, dict):
        raise MalformedRequest("The request must be a JSON object.")
    query = parameters.get("query")
    if not isinstance(query, str):
        raise MalformedRequest("The request needs a query, which is a string.")
    _optional(parameters, "extensions", dict)
    return GraphQLRequest(
        query,
        _optional(parameters, "variables", dict),
        _optional(parameters, "operationName", str) or None,
    )


def _optional(parameters: dict[str, Any], name: str, expected: type) -> Any:
    value = parameters.get(name)
    if value is not None and not isinstance(value, expected):
        kind = "a string" if expected is str else "an object"
        raise MalformedRequest(f"{name} must be {kind} or null.")
    return value
