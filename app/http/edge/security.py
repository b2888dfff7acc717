"""What browsers are told and asked: origins, cross-site requests, response headers.

`install_middleware` puts the whole edge of the service together, in the one order that works.
"""

from collections.abc import Collection
from urllib.parse import urlsplit

from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.auth.tokens import TokenVerifier
from app.errors import DomainError, Forbidden
from app.http.edge.authentication import AuthenticationMiddleware
from app.http.edge.errors import (
    GRAPHQL_PATH,
    on_domain_error,
    on_http_exception,
    on_invalid_request,
    refusal,
)
from app.http.edge.request_log import RequestIdMiddleware, UnhandledErrorMiddleware
from app.http.graphql.quota_headers import QUOTA_HEADERS
from app.settings import Settings

PREFLIGHT_HEADER = "apollo-require-preflight"

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_SECURE = frozenset({"https", "wss"})

_ALLOWED_METHODS = ("GET", "HEAD", "POST", "OPTIONS")
_EXPOSED_HEADERS = (
    "Accept-Ranges",
    "Content-Disposition",
    "Content-Range",
    "ETag",
    *QUOTA_HEADERS,
    "Retry-After",
    "X-Request-ID",
)

_EVERYWHERE = [
    (b"x-content-type-options", b"nosniff"),
    # A signed link must not travel on as a referrer.
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
# Where a response has no policy of its own: the GraphiQL page and files, which may be framed, do.
_CLOSED = [
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-frame-options", b"DENY"),
]


def install_middleware(app: Starlette, settings: Settings, verifier: TokenVerifier) -> None:
    """Add the middleware and the JSON forms of the framework's errors to the app.

    From the outside in: request id and log, security headers, CORS (so that refusals and faults
    can be read across origins), the net for faults, authentication, the cross-site check.
    """
    origins = OriginPolicy(settings.allowed_origins)
    app.add_middleware(CrossSiteMiddleware, origins=origins)
    app.add_middleware(AuthenticationMiddleware, verifier=verifier)
    app.add_middleware(UnhandledErrorMiddleware)
    app.add_middleware(
        _CrossOriginMiddleware,
        allow_origins=settings.allowed_origins,
        allow_methods=_ALLOWED_METHODS,
        allow_headers=("*",),
        allow_credentials=True,
        expose_headers=_EXPOSED_HEADERS,
    )
    app.add_middleware(SecurityHeadersMiddleware)
    app.add_middleware(RequestIdMiddleware)
    app.add_exception_handler(DomainError, on_domain_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(RequestValidationError, on_invalid_request)


class OriginPolicy:
    """Tells which pages may act with a user's cookie: ours, and those of ALLOWED_ORIGINS."""

    def __init__(self, allowed_origins: Collection[str]) -> None:
        self._allowed = frozenset(allowed_origins)

    def allows(self, scope: Scope) -> bool:
        """Tell whether the request (or socket) has one Origin, and it is one of those."""
        headers = Headers(scope=scope)
        origins = headers.getlist("origin")
        if len(origins) != 1:
            return False
        origin = origins[0].lower()
        return origin in self._allowed or _is_own(origin, scope["scheme"], headers.get("host", ""))


class _CrossOriginMiddleware(CORSMiddleware):
    """CORS: a page of an allowed origin may send whatever headers it asks for, any other none.

    Tracing, clients and their developers add headers of their own, none of which means anything
    here; what a page may do is decided by its origin.
    """

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer the preflight."""
        response = super().preflight_response(request_headers)
        if not self.is_allowed_origin(request_headers["origin"]):
            del response.headers["Access-Control-Allow-Headers"]
        return response


class CrossSiteMiddleware:
    """Refuses what another site makes a browser do with its user's cookie (403).

    Only requests authenticated by cookie are judged: a bearer token is never sent by itself.

    - What may change something needs an allowed Origin, which browsers always send there; a
      multipart body also needs the header that no form can send.
    - So does an operation in a URL, unless it brings that header, which no link or form can send:
      pages of ours name no Origin there.
    - Any other read with an Origin needs an allowed one.  Links, frames and embedded files send
      none: then ``Sec-Fetch-Site`` decides, where the browser sends it.  Another site may send the
      user to a file as a whole page (a link in a mail), but neither frame nor embed it.
    """

    def __init__(self, app: ASGIApp, origins: OriginPolicy) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope.get("state", {}).get("auth_via") == "cookie":
            problem = self._problem(scope)
            if problem:
                await refusal(scope, Forbidden(problem))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _problem(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        reads = scope["method"] in _READS
        if scope["path"] == GRAPHQL_PATH and reads and "origin" not in headers:
            needed = f"Queries in a URL need an Origin or the header {PREFLIGHT_HEADER}."
            return None if headers.get(PREFLIGHT_HEADER) else needed
        if reads and "origin" not in headers:
            place = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest"))
            embeds = place != ("navigate", "document")
            is_foreign = headers.get("sec-fetch-site") == "cross-site"
            return "This page may not embed the file." if is_foreign and embeds else None
        if not self._origins.allows(scope):
            return "Requests from this origin are not allowed."
        content_type = headers.get("content-type", "").strip().lower()
        if content_type.startswith("multipart/") and not headers.get(PREFLIGHT_HEADER):
            return f"Multipart requests need the header {PREFLIGHT_HEADER}."
        return None


class SecurityHeadersMiddleware:
    """Adds the headers that every response needs, unless it has set its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                present = {name.lower() for name, _ in headers}
                has_policy = b"content-security-policy" in present
                wanted = _EVERYWHERE if has_policy else _EVERYWHERE + _CLOSED
                headers += [header for header in wanted if header[0] not in present]
                message["headers"] = headers
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _is_own(origin: str, scheme: str, host: str) -> bool:
    """Tell whether the origin is the host that was asked.

    Behind a proxy that ends TLS we see http where the page has https, never the other way round.
    """
    try:
        page, asked = urlsplit(origin), urlsplit(f"{scheme}://{host.lower()}")
        if page.scheme not in {"http", "https"} or not page.hostname:
            return False
        if scheme in _SECURE and page.scheme != "https":
            return False
        page_port = page.port or _DEFAULT_PORTS[page.scheme]
        asked_port = asked.port or _DEFAULT_PORTS[page.scheme]
    except ValueError:
        return False
    return page.hostname == asked.hostname and page_port == asked_port
