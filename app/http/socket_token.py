"""Where a socket's session token comes from: browsers cannot set headers on a handshake."""

from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope

from app.errors import Unauthenticated
from app.http.authentication import SESSION_COOKIE
from app.http.security import OriginPolicy


def payload_token(payload: Mapping[str, Any]) -> str | None:
    """Return the token of a message's payload; None where it names no ``Authorization``.

    Whatever stands there is the client's word: it raises `Unauthenticated` where it is no bearer
    token, rather than falling back to a cookie.
    """
    values = [value for name, value in payload.items() if name.lower() == "authorization"]
    if not values:
        return None
    scheme, _, token = values[0].strip().partition(" ") if isinstance(values[0], str) else ("",) * 3
    if len(values) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated
    return token.strip()


def handshake_token(scope: Scope, origins: OriginPolicy) -> str:
    """Return the session cookie's token, or raise `Unauthenticated`.

    A browser sends the cookie from any page that opens a socket, so it counts only for pages of
    this service and of ALLOWED_ORIGINS.  Clients without an Origin are no browsers.
    """
    headers = Headers(scope=scope)
    token = cookie_parser(headers.get("cookie", "")).get(SESSION_COOKIE)
    if not token or ("origin" in headers and not origins.allows(scope)):
        raise Unauthenticated
    return token
