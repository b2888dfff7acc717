"""A small graphql-transport-ws client that shows every message as it came."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

SUBPROTOCOL = "graphql-transport-ws"
PATIENCE_SECONDS = 60.0


class GraphQLSocketClient:
    """One socket; operations are told apart by the ids that the caller gives."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def init(self, token: str | None = None, payload: object = None) -> dict[str, Any]:
        """Send connection_init and return the answer: the acknowledgement if all is well."""
        if token is not None:
            payload = {"Authorization": f"Bearer {token}"}
        await self.send({"type": "connection_init", "payload": payload})
        return await self.receive()

    async def subscribe(
        self,
        query: str,
        variables: Mapping[str, object] | None = None,
        *,
        operation_id: str = "1",
        operation_name: str | None = None,
    ) -> None:
        """Start an operation of any kind."""
        payload = {"query": query, "variables": variables, "operationName": operation_name}
        await self.send({"id": operation_id, "type": "subscribe", "payload": payload})

    async def complete(self, operation_id: str = "1") -> None:
        """End an operation."""
        await self.send({"id": operation_id, "type": "complete"})

    async def ping(self, token: str | None = None) -> None:
        """Ping; with a token it renews the session."""
        payload = None if token is None else {"Authorization": f"Bearer {token}"}
        await self.send({"type": "ping", "payload": payload})

    async def send(self, message: object) -> None:
        """Send any value as JSON."""
        await self.send_raw(json.dumps(message))

    async def send_raw(self, frame: str | bytes) -> None:
        """Send a text or binary frame as it is."""
        await self._connection.send(frame)

    async def receive(self) -> dict[str, Any]:
        """Return the next message; raise `ConnectionClosed` where the server has closed."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            message = json.loads(await self._connection.recv())
        assert isinstance(message, dict)
        return message

    async def next(self, operation_id: str = "1") -> dict[str, Any]:
        """Return the payload of the next message, which must be the operation's ``next``."""
        message = await self.receive()
        assert message["type"] == "next", message
        assert message["id"] == operation_id, message
        payload = message["payload"]
        assert isinstance(payload, dict)
        return payload

    async def close_code(self) -> int | None:
        """Wait until the server closes, whatever it sends before, and return the code."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    await self._connection.recv()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else None


@asynccontextmanager
async def open_socket(
    address: str,
    *,
    headers: Mapping[str, str] | None = None,
    origin: str | None = None,
    subprotocol: str | None = SUBPROTOCOL,
) -> AsyncIterator[GraphQLSocketClient]:
    """Open a socket to ``/graphql`` of the service at an address such as http://127.0.0.1:8000."""
    async with connect(
        address.replace("http://", "ws://") + "/graphql",
        subprotocols=[subprotocol] if subprotocol else None,  # type: ignore[list-item]
        additional_headers=dict(headers or {}),
        origin=origin,  # type: ignore[arg-type]
        compression=None,
        proxy=None,
    ) as connection:
        yield GraphQLSocketClient(connection)
