"""From JSON to a `GraphQLRequest`: the shape that GraphQL over HTTP and graphql-transport-ws share.

https://graphql.github.io/graphql-over-http/draft/#sec-Request-Parameters
"""

from typing import Any
from urllib.parse import parse_qsl

import orjson

from app.errors import MalformedRequest
from app.http.graphql.operations import GraphQLRequest

_MAX_ID_CHARACTERS = 128
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def parse_json(content: bytes | str) -> Any:
    """Return the JSON value, or raise `MalformedRequest`.

    orjson is strict where it matters: no NaN, no lone surrogates, no invalid UTF-8, and a limit on
    nesting that is not the interpreter's.  A byte order mark before it is passed over.
    """
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    try:
        return orjson.loads(data.removeprefix(_BYTE_ORDER_MARK))
    except ValueError:
        raise MalformedRequest("The body is not valid JSON.") from None


def request_from(parameters: object) -> GraphQLRequest:
    """Return the request, or raise `MalformedRequest` where a parameter is missing or mistyped."""
    if isinstance(parameters, list):
        raise MalformedRequest("Batches of operations are not supported.")
    if not isinstance(parameters, dict):
        raise MalformedRequest("The request must be a JSON object.")
    extensions = _optional(parameters, "extensions", dict) or {}
    persisted = extensions.get("persistedQuery")
    document_id = persisted.get("sha256Hash") if isinstance(persisted, dict) else None
    if not isinstance(document_id, str) or not 0 < len(document_id) <= _MAX_ID_CHARACTERS:
        document_id = None  # What cannot be a hash counts as none.
    query = parameters.get("query")
    if not isinstance(query, str) and (query or document_id is None):
        raise MalformedRequest("The request needs a query, which is a string.")
    return GraphQLRequest(
        query or (None if document_id else query),
        _optional(parameters, "variables", dict),
        _optional(parameters, "operationName", str) or None,
        document_id,
    )


def url_request(query_string: bytes) -> GraphQLRequest:
    """Return the request that a URL's query string makes; raise `MalformedRequest` as above."""
    parameters: dict[str, Any] = dict(parse_qsl(query_string.decode("utf-8", "replace")))
    for name in ("variables", "extensions"):
        if name in parameters:
            parameters[name] = parse_json(parameters[name])
    return request_from(parameters)


def _optional(parameters: dict[str, Any], name: str, expected: type) -> Any:
    value = parameters.get(name)
    if value is not None and not isinstance(value, expected):
        kind = "a string" if expected is str else "an object"
        raise MalformedRequest(f"{name} must be {kind} or null.")
    return value
