"""Where a socket's session token comes from: browsers cannot set headers on a handshake."""

from collections.abc import Mapping
from typing import Any

from starlette.types import Scope

from app.errors import Unauthenticated
from app.http.edge.authentication import request_tokens
from app.http.edge.security import OriginPolicy


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


def handshake_tokens(scope: Scope, origins: OriginPolicy) -> list[str]:
    """Return the handshake's own tokens, or raise `Unauthenticated`.

    Clients that are no browsers can set the header.  A browser sends the cookie from any page that
    opens a socket, and names that page's Origin, so the cookie counts only with the Origin of this
    service or one of ALLOWED_ORIGINS.
    """
    tokens, via = request_tokens(scope)
    if via == "cookie" and not origins.allows(scope):
        raise Unauthenticated
    return tokens
