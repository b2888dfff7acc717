"""The GraphQL endpoint: one ASGI app for HTTP, server-sent events and WebSocket.

https://graphql.github.io/graphql-over-http/draft/ says which status goes with which media type: a
refused operation is 400 under ``application/graphql-response+json`` and 200 under
``application/json``; a request that is not well-formed is 400 under both.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from typing import Any, Protocol
from uuid import uuid4

import orjson
import strawberry
from graphql import OperationType
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from app.auth.viewer import Viewer
from app.errors import (
    BadUserInput,
    DomainError,
    MalformedRequest,
    PayloadTooLarge,
    RateLimited,
    Unauthenticated,
)
from app.http.edge.authentication import Verifier, carries_operation
from app.http.edge.errors import error_headers
from app.http.edge.user_connections import UserConnections
from app.http.graphiql.page import CONTENT_SECURITY_POLICY
from app.http.graphql.event_stream import send_event_stream
from app.http.graphql.multipart import ENVELOPE_BYTES, boundary_of, read_upload
from app.http.graphql.negotiation import ResponseType, accepts_html, response_type
from app.http.graphql.operations import (
    Answer,
    GraphQLRequest,
    Operation,
    OperationRefused,
    OperationRunner,
)
from app.http.graphql.persisted import PersistedDocuments
from app.http.graphql.quota_headers import quota_headers
from app.http.graphql.request import parse_json, request_from, url_request
from app.http.graphql.request_body import ClientDisconnected, RequestBody, check_declared_length
from app.http.graphql.socket import GraphQLSocket
from app.schema.kernel.error_format import format_exception
from app.services.kernel.quotas import Usage
from app.settings import Settings

MAX_JSON_BYTES = 1024 * 1024

_METHODS = "GET, POST"
_FORM = "multipart/form-data"
# As clients spell UTF-8, and what is a part of it.
_UTF_8 = frozenset({b"", b"utf-8", b"utf8", b"us-ascii", b"ascii"})


class OperationContext(Protocol):
    """What resolvers are given, as far as the endpoint looks at it."""

    @property
    def usages(self) -> Collection[Usage]:
        """What the operation has used of the viewer's quotas."""
        ...


ContextFactory = Callable[[Viewer, str], OperationContext]
"""Makes the resolvers' context of one operation from the viewer and the request's id."""


class UnsupportedMediaType(MalformedRequest):
    """The body is neither JSON nor a multipart form (HTTP 415)."""


class MethodNotAllowed(MalformedRequest):
    """The operation changes something, and came with GET (HTTP 405)."""


_STATUS: Mapping[type[DomainError], int] = {
    Unauthenticated: 401,
    MethodNotAllowed: 405,
    PayloadTooLarge: 413,
    UnsupportedMediaType: 415,
    RateLimited: 429,
}


class GraphQLEndpoint:
    """Answers ``/graphql``.

    HTTP requests need ``scope["state"]["viewer"]``, which the authentication middleware sets;
    sockets bring their token along.  ``graphiql_page`` makes the page for browsers, where there is
    one.
    """

    def __init__(
        self,
        schema: strawberry.Schema,
        settings: Settings,
        verifier: Verifier,
        documents: PersistedDocuments,
        context_factory: ContextFactory,
        graphiql_page: Callable[[], str] | None = None,
    ) -> None:
        self.settings = settings
        self.context_factory = context_factory
        self.runner = OperationRunner(
            schema, documents, introspection=settings.introspection_enabled
        )
        self.connections = UserConnections()
        self._verifier = verifier
        self._graphiql_page = graphiql_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or one socket."""
        if scope["type"] == "websocket":
            socket = GraphQLSocket(
                self.runner, self._verifier, self.connections, self.context_factory, self.settings
            )
            await socket.serve(scope, receive, send)
        elif scope["method"] == "POST" or carries_operation(scope):
            await _Exchange(self, scope, receive, send).serve()
        else:
            await self._without_operation(scope)(scope, receive, send)

    def _without_operation(self, scope: Scope) -> Response:
        """Return GraphiQL to browsers, and to everyone else what there is instead."""
        page = self._graphiql_page
        allow = {"Allow": _METHODS}
        if scope["method"] == "OPTIONS":
            return Response(status_code=204, headers=allow)
        wants_page = accepts_html(Headers(scope=scope).get("accept", ""))
        if page and wants_page and scope["method"] in {"GET", "HEAD"}:
            policy = {"Content-Security-Policy": CONTENT_SECURITY_POLICY}
            return HTMLResponse(page(), headers=policy | {"Cache-Control": "no-store"})
        error = BadUserInput("GraphQL requests are sent with POST, queries with GET too.")
        body = {"errors": [format_exception(error, "")]}
        return Response(orjson.dumps(body), 405, headers=allow, media_type=ResponseType.JSON)


class _Exchange:
    """One request and its response."""

    def __init__(
        self, endpoint: GraphQLEndpoint, scope: Scope, receive: Receive, send: Send
    ) -> None:
        state = scope.get("state", {})
        self._scope = scope
        self._viewer: Viewer | None = state.get("viewer")
        self._request_id: str = state.get("request_id") or uuid4().hex
        self._stopping: asyncio.Event = state.get("stopping") or asyncio.Event()
        self._endpoint = endpoint
        self._runner = endpoint.runner
        self._headers = Headers(scope=scope)
        self._receive = receive
        self._send = send
        self._body = RequestBody(receive)
        self._usages: Collection[Usage] = ()

    async def serve(self) -> None:
        """Answer; what a client did wrong is its answer too."""
        try:
            if self._viewer is None:
                raise Unauthenticated
            if self._scope["method"] == "GET":
                await self._body.read(0)
                await self._operation(self._viewer, url_request(self._scope["query_string"]))
            elif self._content_type() == _FORM:
                await self._upload(self._viewer)
            else:
                check_declared_length(self._headers, MAX_JSON_BYTES)
                content = await self._body.read(MAX_JSON_BYTES)
                await self._operation(self._viewer, request_from(parse_json(content)))
        except ClientDisconnected:
            return
        except OperationRefused as refusal:
            await self._answer(refusal.answer)
        except DomainError as error:  # not well-formed, or one too many
            status, headers = _STATUS.get(type(error), 400), error_headers(error)
            if status == 405:
                headers["Allow"] = _METHODS
            body = {"errors": [format_exception(error, self._request_id)]}
            await self._respond(status, body, headers)

    def _content_type(self) -> str:
        """Return the body's media type, or raise `UnsupportedMediaType`."""
        name, parameters = parse_options_header(self._headers.get("content-type"))
        media_type, charset = name.decode("latin-1"), parameters.get(b"charset", b"")
        encoding = self._headers.get("content-encoding", "").strip().lower()
        known = media_type in {ResponseType.JSON, _FORM} and encoding in {"", "identity"}
        if not known or charset.strip(b"'").lower() not in _UTF_8:
            raise UnsupportedMediaType("The body must be application/json in UTF-8, or a form.")
        return media_type

    async def _operation(self, viewer: Viewer, request: GraphQLRequest) -> None:
        try:
            operation = await self._runner.prepare(request, self._request_id)
        except OperationRefused as refusal:
            if self._response_type() is not ResponseType.EVENTS:
                raise
            await self._stream(viewer, _once(refusal.answer))
            return
        if operation.type is OperationType.MUTATION and self._scope["method"] == "GET":
            raise MethodNotAllowed("Mutations are sent with POST.")
        if self._response_type(subscription=operation.is_subscription) is ResponseType.EVENTS:
            context = self._context(viewer)
            await self._stream(viewer, self._runner.stream(operation, context, self._request_id))
        else:
            await self._answer(await self._run(viewer, operation))

    async def _upload(self, viewer: Viewer) -> None:
        limit = self._endpoint.settings.max_upload_bytes
        check_declared_length(self._headers, limit, ENVELOPE_BYTES)
        boundary = boundary_of(self._headers["content-type"])
        upload = await read_upload(self._body, boundary, limit)
        operation = await self._runner.prepare(upload.request, self._request_id)
        answer = await self._run(viewer, operation)
        if upload.file is not None and upload.file.failure is not None:
            raise upload.file.failure
        await self._answer(answer)

    async def _run(self, viewer: Viewer, operation: Operation) -> Answer:
        if operation.is_subscription:
            message = "Subscriptions are answered over text/event-stream or WebSocket."
            raise OperationRefused([format_exception(BadUserInput(message), self._request_id)])
        context = self._context(viewer)
        self._usages = context.usages
        return await self._runner.run(operation, context, self._request_id)

    def _context(self, viewer: Viewer) -> OperationContext:
        return self._endpoint.context_factory(viewer, self._request_id)

    def _response_type(self, *, subscription: bool = False) -> ResponseType:
        return response_type(self._headers.get("accept", ""), subscription=subscription)

    async def _stream(self, viewer: Viewer, answers: AsyncGenerator[Answer, None]) -> None:
        ends_at = viewer.expires_at + self._endpoint.settings.socket_grace_seconds
        with self._endpoint.connections.counting(viewer.id):
            await send_event_stream(
                answers, self._receive, self._send, ends_at=ends_at, stopping=self._stopping
            )

    async def _answer(self, answer: Answer) -> None:
        strict = self._response_type() is ResponseType.GRAPHQL
        status = 400 if strict and answer.refused else 200
        await self._respond(507 if answer.storage_full else status, answer.body, {})

    async def _respond(
        self, status: int, body: dict[str, Any], own_headers: Mapping[str, str]
    ) -> None:
        """Send the whole response, then take in what is left of an unread body."""
        content = orjson.dumps(body)
        media_type = self._response_type()
        if media_type is ResponseType.EVENTS:
            media_type = ResponseType.JSON
        headers = [
            (b"content-type", f"{media_type}; charset=utf-8".encode()),
            (b"content-length", str(len(content)).encode()),
            (b"cache-control", b"no-store"),
            *quota_headers(self._usages),
            *((name.lower().encode(), value.encode()) for name, value in own_headers.items()),
        ]
        if not self._body.complete:
            headers.append((b"connection", b"close"))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": content, "more_body": True})
        await self._body.drain(self._endpoint.settings.max_upload_bytes)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _once(answer: Answer) -> AsyncGenerator[Answer, None]:
    yield answer
