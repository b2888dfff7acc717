"""Every request gets an id, one line in the log, a place in the metrics, and an answer."""

import asyncio
import time
import uuid

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.edge.authentication import file_route
from app.http.edge.errors import GRAPHQL_PATH, internal_error_response, unavailable_response
from app.observability import REQUEST_SECONDS, REQUESTS

_log = structlog.get_logger(__name__)

_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"})
_ROUTES = frozenset({GRAPHQL_PATH, "/health/live", "/health/ready", "/metrics"})
# Asked every few seconds by machines.
_QUIET_ROUTES = frozenset({"/health/live", "/health/ready", "/metrics"})
_MAX_LOGGED_PATH = 200
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
# As nginx counts a client that left before its answer began.
_CLIENT_LEFT = 499


class RequestIdMiddleware:
    """Puts an id of ours into the state (``request_id``), the log context and ``X-Request-ID``.

    A client's own id is not taken over: it could be anyone's.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or socket."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        header = (b"x-request-id", request_id.encode())
        status = _CLIENT_LEFT

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] in _STARTS:
                message["headers"] = [*message.get("headers", ()), header]
                status = message.get("status", 101)
            await send(message)

        started = time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                _record(scope, status, time.perf_counter() - started)


class UnhandledErrorMiddleware:
    """Turns a fault of ours into a masked 500, and logs it whole.

    Where the answer has begun already nothing can be said any more: the server then ends the
    connection, so that the client sees the answer cut short.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except asyncio.CancelledError:
            stopping: asyncio.Event | None = scope.get("state", {}).get("stopping")
            if stopping is None or not stopping.is_set():
                raise
            # The server ends what has not finished in time; who waits is told to come again.
            _log.warning("request.cut_off")
            if not begun:
                await unavailable_response(scope)(scope, receive, send)
        except ClientDisconnect:
            _log.info("request.client_left")
        except Exception:  # noqa: BLE001 - logged whole; the client gets its masked form
            _log.exception("request.failed")
            if not begun:
                await internal_error_response(scope)(scope, receive, send)


def route_label(path: str) -> str:
    """Return the route that a path belongs to: a short, fixed list, whatever clients ask for."""
    if path in _ROUTES:
        return path
    if route := file_route(path):
        return route
    return f"{GRAPHQL_PATH}/assets" if path.startswith(f"{GRAPHQL_PATH}/assets/") else "other"


def _record(scope: Scope, status: int, seconds: float) -> None:
    if scope["type"] != "http":
        return
    method = scope["method"] if scope["method"] in _METHODS else "OTHER"
    route = route_label(scope["path"])
    REQUESTS.labels(method, route, str(status)).inc()
    REQUEST_SECONDS.labels(route).observe(seconds)
    write = _log.debug if route in _QUIET_ROUTES else _log.info
    write(
        "request",
        method=method,
        path=scope["path"][:_MAX_LOGGED_PATH],
        status=status,
        duration_ms=round(seconds * 1000, 1),
    )
