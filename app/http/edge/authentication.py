"""Who is asking: from a session token to ``scope["state"]["viewer"]``, before any body is read.

Every path needs a token unless it is named here, so a route that is added later is closed by
itself.  WebSockets are not judged here: their token comes with `connection_init`.
"""

import contextlib
import re
from collections.abc import Sequence
from typing import Literal, Protocol
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.auth.viewer import Viewer
from app.errors import Unauthenticated
from app.http.edge.errors import GRAPHQL_PATH, refusal
from app.http.graphql.negotiation import accepts_html

AuthVia = Literal["header", "cookie"]

SESSION_COOKIE = "__session"
_FILE_ROUTES = {
    route: re.compile(route.replace("{id}", "[^/]+"))
    for route in ("/api/documents/{id}/file", "/api/lectures/{id}/audio")
}

_PUBLIC_PATHS = frozenset({"/", "/favicon.ico", "/metrics"})
_PUBLIC_PREFIXES = ("/health/", f"{GRAPHQL_PATH}/assets/")
_READS = frozenset({"GET", "HEAD"})
_OPERATION_PARAMETERS = frozenset({"query", "extensions"})
# Each costs the check of a signature.
_MAX_SESSION_COOKIES = 8


class Verifier(Protocol):
    """Checks session tokens."""

    async def verify(self, token: str) -> Viewer:
        """Return whose token it is, or raise `Unauthenticated`."""
        ...


class AuthenticationMiddleware:
    """Lets a request through with its viewer, or answers 401 itself.

    Sets ``viewer`` (`Viewer`) and ``auth_via`` (``header`` or ``cookie``) in the scope's state; a
    public path has neither.
    """

    def __init__(self, app: ASGIApp, verifier: Verifier) -> None:
        self._app = app
        self._verifier = verifier

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and not _is_public(scope):
            try:
                tokens, via = request_tokens(scope)
                viewer = await verify_any(self._verifier, tokens)
            except Unauthenticated as error:
                await refusal(scope, error)(scope, receive, send)
                return
            scope.setdefault("state", {}).update(viewer=viewer, auth_via=via)
        await self._app(scope, receive, send)


def file_route(path: str) -> str | None:
    """Return the route of stored files that the path is of, with ``{id}`` in it; else None."""
    return next((route for route, form in _FILE_ROUTES.items() if form.fullmatch(path)), None)


def carries_signature(scope: Scope) -> bool:
    """Tell whether this reads a file by a signed link, which the file route then checks."""
    if scope["method"] not in _READS or file_route(scope["path"]) is None:
        return False
    query = scope.get("query_string", b"").decode("latin-1")
    return "signature" in query and "signature" in parse_qs(query, keep_blank_values=True)


def carries_operation(scope: Scope) -> bool:
    """Tell whether this is a GraphQL operation in a URL, not a browser that wants a page."""
    if scope["method"] != "GET" or accepts_html(Headers(scope=scope).get("accept", "")):
        return False
    parameters = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    return not parameters.keys().isdisjoint(_OPERATION_PARAMETERS)


def _is_public(scope: Scope) -> bool:
    path: str = scope["path"]
    reads = scope["method"] in _READS
    if path in _PUBLIC_PATHS or path.startswith(_PUBLIC_PREFIXES):
        return reads
    if path == GRAPHQL_PATH and reads:
        return not carries_operation(scope)
    asks_first = scope["method"] == "OPTIONS" and any(
        name == b"access-control-request-method" for name, _ in scope["headers"]
    )
    return asks_first or carries_signature(scope)


def request_tokens(scope: Scope) -> tuple[list[str], AuthVia]:
    """Return the request's tokens; a header, however bad, means that no cookie is looked at."""
    authorizations = [value for name, value in scope["headers"] if name == b"authorization"]
    if not authorizations:
        return session_cookies(scope), "cookie"
    scheme, _, token = authorizations[0].decode("latin-1").strip().partition(" ")
    if len(authorizations) > 1 or scheme.lower() != "bearer":
        raise Unauthenticated
    return [token.strip()], "header"


def session_cookies(scope: Scope) -> list[str]:
    """Return the tokens of the session cookies, or raise `Unauthenticated` where there is none.

    Pages of several applications on one host have one each, ``__session`` and, as Clerk's browser
    library writes them, ``__session_`` with a suffix: whichever our issuer signed counts.  Of
    several of one name the first does: browsers send the closest one first.
    """
    headers = [value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie"]
    tokens: dict[str, str] = {}
    for pair in ";".join(headers).split(";"):
        name, _, value = (part.strip() for part in pair.partition("="))
        if name == SESSION_COOKIE or name.startswith(f"{SESSION_COOKIE}_"):
            tokens.setdefault(name, value.strip('"'))
    found = [token for token in tokens.values() if token]
    if not found:
        raise Unauthenticated
    return found[:_MAX_SESSION_COOKIES]


async def verify_any(verifier: Verifier, tokens: Sequence[str]) -> Viewer:
    """Return whose session the first good token is; raise `Unauthenticated` where none is good."""
    for token in tokens:
        with contextlib.suppress(Unauthenticated):
            return await verifier.verify(token)
    raise Unauthenticated
