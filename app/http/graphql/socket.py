"""graphql-transport-ws: many operations over one WebSocket.

https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md.  Added to it: a ``ping`` whose
payload has an ``Authorization`` renews the session, and a session that ran out is closed with 4403,
after which clients connect again with a fresh token.  1013 says that this user has 100 connections
to this process already: clients try again later, which they would not after 4429.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack, aclosing, suppress
from typing import Any
from uuid import uuid4

import orjson
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from app.auth.viewer import Viewer
from app.errors import BadUserInput, MalformedRequest, RateLimited, Unauthenticated
from app.http.edge.authentication import Verifier, verify_any
from app.http.edge.security import OriginPolicy
from app.http.edge.user_connections import UserConnections
from app.http.graphql.operations import GraphQLRequest, OperationRefused, OperationRunner
from app.http.graphql.request import parse_json, request_from
from app.http.graphql.socket_token import handshake_tokens, payload_token
from app.schema.kernel.error_format import format_exception
from app.schema.kernel.limits import OPERATIONS_PER_SOCKET
from app.settings import Settings

SUBPROTOCOL = "graphql-transport-ws"
INIT_SECONDS = 5.0

_MAX_ID_CHARACTERS = 256


class _Closed(Exception):
    """The socket must end with this code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class GraphQLSocket:
    """One connection: reads messages in order, runs each operation in a task of its own."""

    def __init__(
        self,
        runner: OperationRunner,
        verifier: Verifier,
        connections: UserConnections,
        context_factory: Callable[[Viewer, str], object],
        settings: Settings,
    ) -> None:
        self._runner = runner
        self._verifier = verifier
        self._connections = connections
        self._context_factory = context_factory
        self._settings = settings
        self._viewer: Viewer | None = None
        self._initialised = False
        self._operations: dict[str, asyncio.Task[None]] = {}

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the socket until either side ends it; no operation outlives it."""
        self._socket = WebSocket(scope, receive, send)
        with ExitStack() as self._counted:
            try:
                offered = SUBPROTOCOL in scope.get("subprotocols", [])
                await self._socket.accept(subprotocol=SUBPROTOCOL if offered else None)
                if not offered:
                    raise _Closed(4406, "Subprotocol not acceptable")
                await self._read()
            except _Closed as closing:
                # No operation may send after the close frame.
                await self._cancel(*self._operations.values())
                with suppress(RuntimeError, WebSocketDisconnect):  # the client was faster
                    await self._socket.close(closing.code, closing.reason)
            except WebSocketDisconnect:
                pass  # by the client, or by the server with 1012 as it stops
            finally:
                await self._cancel(*self._operations.values())

    async def _read(self) -> None:
        """Handle messages until the deadline: of connection_init first, of the session then."""
        try:
            async with asyncio.timeout(INIT_SECONDS) as self._deadline:
                while True:
                    await self._handle(await self._receive())
        except TimeoutError:
            if self._viewer is None:
                raise _Closed(4408, "Connection initialisation timeout") from None
            raise _Closed(4403, "Session expired") from None

    async def _receive(self) -> dict[str, Any]:
        event = await self._socket.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code", 1005))
        try:
            message = parse_json(event.get("text") or "")
        except MalformedRequest:
            raise _malformed() from None
        if not isinstance(message, dict):
            raise _malformed()
        return message

    async def _handle(self, message: dict[str, Any]) -> None:
        match message.get("type"):
            case "connection_init":
                await self._on_init(_payload(message))
            case "ping":
                await self._on_ping(_payload(message))
            case "pong":
                _payload(message)
            case "subscribe":
                await self._on_subscribe(_id(message), message.get("payload"))
            case "complete":
                await self._cancel(self._operations.pop(_id(message), None))
            case _:
                raise _malformed()

    async def _on_init(self, payload: dict[str, Any]) -> None:
        if self._initialised:
            raise _Closed(4429, "Too many initialisation requests")
        self._initialised = True
        self._deadline.reschedule(None)
        try:
            token = payload_token(payload)
            if token is None:
                origins = OriginPolicy(self._settings.allowed_origins)
                tokens = handshake_tokens(self._socket.scope, origins)
            else:
                tokens = [token]
            viewer = await verify_any(self._verifier, tokens)
        except Unauthenticated:
            raise _Closed(4401, "Unauthorized") from None
        try:
            self._counted.enter_context(self._connections.counting(viewer.id))
        except RateLimited:
            raise _Closed(1013, "Too many connections of this user") from None
        self._begin_session(viewer)
        await self._send({"type": "connection_ack"})

    async def _on_ping(self, payload: dict[str, Any]) -> None:
        """Answer; a token in the payload renews the session, or ends it where it is not good."""
        if self._viewer is not None:
            try:
                token = payload_token(payload)
                renewed = None if token is None else await self._verifier.verify(token)
            except Unauthenticated:
                raise _Closed(4401, "Unauthorized") from None
            if renewed is not None:
                if renewed.id != self._viewer.id:
                    raise _Closed(4401, "Unauthorized")
                self._begin_session(renewed)
        await self._send({"type": "pong"})

    def _begin_session(self, viewer: Viewer) -> None:
        self._viewer = viewer
        seconds_left = viewer.expires_at + self._settings.socket_grace_seconds - time.time()
        self._deadline.reschedule(asyncio.get_running_loop().time() + seconds_left)

    async def _on_subscribe(self, operation_id: str, payload: object) -> None:
        try:
            request = request_from(payload)
        except MalformedRequest:
            raise _malformed() from None
        if self._viewer is None:
            raise _Closed(4401, "Unauthorized")
        if operation_id in self._operations:
            raise _Closed(4409, f"Subscriber for {operation_id[:64]} already exists")
        if len(self._operations) >= OPERATIONS_PER_SOCKET:
            error = BadUserInput(f"A socket runs {OPERATIONS_PER_SOCKET} operations at most.")
            await self._send_error(operation_id, [format_exception(error, "")])
            return
        running = self._run(operation_id, request, self._viewer)
        self._operations[operation_id] = asyncio.create_task(running)

    async def _run(self, operation_id: str, request: GraphQLRequest, viewer: Viewer) -> None:
        """Run one operation; its id is free again before its last message goes out."""
        request_id = uuid4().hex
        try:
            operation = await self._runner.prepare(request, request_id)
            context = self._context_factory(viewer, request_id)
            async with aclosing(self._runner.stream(operation, context, request_id)) as answers:
                async for answer in answers:
                    if answer.refused:
                        raise OperationRefused(answer.body["errors"])
                    await self._send({"id": operation_id, "type": "next", "payload": answer.body})
            errors = None
        except OperationRefused as refusal:
            errors = refusal.errors
        except WebSocketDisconnect:
            return  # the reader notices as well, and ends the rest
        except Exception as error:  # noqa: BLE001 - the task's edge: masked, and logged whole
            errors = [format_exception(error, request_id)]
        del self._operations[operation_id]
        if errors is None:
            await self._send({"id": operation_id, "type": "complete"})
        else:
            await self._send_error(operation_id, errors)

    async def _send_error(self, operation_id: str, errors: list[dict[str, Any]]) -> None:
        await self._send({"id": operation_id, "type": "error", "payload": errors})

    async def _send(self, message: dict[str, Any]) -> None:
        await self._socket.send_text(orjson.dumps(message).decode())

    async def _cancel(self, *tasks: asyncio.Task[None] | None) -> None:
        """End the operations and wait until their streams are closed."""
        ending = [task for task in tasks if task is not None]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)


def _malformed() -> _Closed:
    return _Closed(4400, "Malformed message")


def _payload(message: dict[str, Any]) -> dict[str, Any]:
    """Return the optional payload, which is an object where it is there."""
    payload = message.get("payload")
    if payload is not None and not isinstance(payload, dict):
        raise _malformed()
    return payload or {}


def _id(message: dict[str, Any]) -> str:
    operation_id = message.get("id")
    if not isinstance(operation_id, str) or not 0 < len(operation_id) <= _MAX_ID_CHARACTERS:
        raise _malformed()
    return operation_id
