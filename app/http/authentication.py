"""Who is asking: from a session token to ``scope["state"]["viewer"]``, before any body is read.

Every path needs a token unless it is named here, so a route that is added later is closed by
itself.  WebSockets are not judged here: their token comes with `connection_init`.
"""

import re
from typing import Literal
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Receive, Scope, Send

from app.auth.tokens import TokenVerifier
from app.errors import Unauthenticated
from app.http.errors import GRAPHQL_PATH, refusal

AuthVia = Literal["header", "cookie"]

SESSION_COOKIE = "__session"
FILE_PATH = re.compile(r"/api/documents/[^/]+/file")

_PUBLIC_PATHS = frozenset({"/", "/favicon.ico", "/metrics"})
_PUBLIC_PREFIXES = ("/health/", f"{GRAPHQL_PATH}/assets/")
_READS = frozenset({"GET", "HEAD"})


class AuthenticationMiddleware:
    """Lets a request through with its viewer, or answers 401 itself.

    Sets ``viewer`` (`Viewer`) and ``auth_via`` (``header`` or ``cookie``) in the scope's state; a
    public path has neither.
    """

    def __init__(self, app: ASGIApp, verifier: TokenVerifier) -> None:
        self._app = app
        self._verifier = verifier

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and not _is_public(scope):
            try:
                token, via = _token(scope)
                viewer = await self._verifier.verify(token)
            except Unauthenticated as error:
                await _refuse(scope, receive, send, error)
                return
            scope.setdefault("state", {}).update(viewer=viewer, auth_via=via)
        await self._app(scope, receive, send)


def carries_signature(scope: Scope) -> bool:
    """Tell whether this reads a file by a signed link, which the file route then checks."""
    if scope["method"] not in _READS or not FILE_PATH.fullmatch(scope["path"]):
        return False
    query = scope.get("query_string", b"").decode("latin-1")
    return "signature" in query and "signature" in parse_qs(query, keep_blank_values=True)


def _is_public(scope: Scope) -> bool:
    path: str = scope["path"]
    reads = scope["method"] in _READS
    if path in _PUBLIC_PATHS or path.startswith(_PUBLIC_PREFIXES):
        return reads
    if path == GRAPHQL_PATH and reads:
        return True
    return _is_preflight(scope) or carries_signature(scope)


def _is_preflight(scope: Scope) -> bool:
    return scope["method"] == "OPTIONS" and any(
        name == b"access-control-request-method" for name, _ in scope["headers"]
    )


def _token(scope: Scope) -> tuple[str, AuthVia]:
    """Return the request's token; a header, however bad, means that no cookie is looked at."""
    authorizations = [value for name, value in scope["headers"] if name == b"authorization"]
    if authorizations:
        return _bearer_token(authorizations), "header"
    return session_cookie(scope), "cookie"


def _bearer_token(authorizations: list[bytes]) -> str:
    scheme, _, token = authorizations[0].decode("latin-1").strip().partition(" ")
    if len(authorizations) > 1 or scheme.lower() != "bearer":
        raise Unauthenticated
    return token.strip()


def session_cookie(scope: Scope) -> str:
    """Return the session cookie's token, or raise `Unauthenticated`.

    Of several cookies the first counts: browsers send the closest one first.
    """
    for name, value in scope["headers"]:
        if name == b"cookie" and (token := _session_cookie(value.decode("latin-1"))):
            return token
    raise Unauthenticated


def _session_cookie(header: str) -> str | None:
    for pair in header.split(";"):
        name, _, value = pair.partition("=")
        if name.strip() == SESSION_COOKIE:
            return value.strip().strip('"')
    return None


async def _refuse(scope: Scope, receive: Receive, send: Send, error: Unauthenticated) -> None:
    response = refusal(scope, error)
    await response(scope, receive, send)
