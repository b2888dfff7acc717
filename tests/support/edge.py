"""A service that is only the GraphQL edge: a schema of its own, and tokens that are names."""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID, uuid4, uuid5

import httpx
import strawberry
from starlette.types import ASGIApp, Receive, Scope, Send

from app.auth.viewer import Viewer
from app.domain import FieldErrorCode
from app.errors import (
    Forbidden,
    InvalidInput,
    NotFound,
    RateLimited,
    StorageError,
    Unauthenticated,
)
from app.http.edge.server import running_server
from app.http.graphql.endpoint import GraphQLEndpoint
from app.http.graphql.persisted import PersistedDocuments
from app.schema.kernel.limits import schema_config
from app.schema.kernel.scalars import BigInt, Upload
from app.settings import Settings, load_settings

TOKEN = "ada"
_NAMES = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")


@dataclass
class Record:
    """What happened in the resolvers, for tests to look at."""

    mutations: list[str] = field(default_factory=list)
    stored: dict[str, str] = field(default_factory=dict)
    pieces: list[int] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    viewers: list[Viewer] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Context:
    """What the resolvers are given."""

    record: Record
    viewer: Viewer
    request_id: str
    usages: tuple[()] = ()


Info = strawberry.Info[Context, None]


@strawberry.type
class Item:
    """Something with a child of its own kind."""

    id: strawberry.ID
    size: BigInt = BigInt(2**40)
    at: datetime = datetime(2026, 11, 1, 12, tzinfo=UTC)

    @strawberry.field
    def child(self) -> "Item":
        return Item(id=self.id)


@strawberry.type
class Query:
    """Reads."""

    @strawberry.field
    def hello(self, name: str = "world") -> str:
        return f"hello {name}"

    @strawberry.field
    def item(self, id: UUID) -> Item:  # noqa: A002
        return Item(id=strawberry.ID(str(id)))

    @strawberry.field
    def me(self, info: Info) -> str:
        info.context.record.viewers.append(info.context.viewer)
        return info.context.viewer.subject

    @strawberry.field
    def missing(self) -> str | None:
        raise NotFound("lecture", uuid4())

    @strawberry.field
    def forbidden(self) -> str | None:
        raise Forbidden

    @strawberry.field
    def limited(self) -> str | None:
        raise RateLimited(7)

    @strawberry.field
    def broken(self) -> str | None:
        raise KeyError("/etc/secret")

    @strawberry.field
    def broken_storage(self) -> str | None:
        raise StorageError("disk /dev/sda1 is on fire")

    @strawberry.field
    def huge(self) -> int | None:
        return 2**40


@strawberry.input
class UploadInput:
    """A file and where it goes."""

    label: str
    file: Upload


@strawberry.type
class Mutation:
    """Writes."""

    @strawberry.mutation
    def note(self, info: Info, text: str) -> str:
        info.context.record.mutations.append(text)
        return text

    @strawberry.mutation
    async def upload(self, info: Info, input: UploadInput) -> str:  # noqa: A002
        record, file = info.context.record, input.file
        digest = hashlib.sha256()
        record.started.append(file.filename)
        async for piece in file.chunks:
            record.pieces.append(len(piece))
            digest.update(piece)
        record.stored[file.filename] = digest.hexdigest()
        return f"{file.filename} {file.content_type} {digest.hexdigest()}"

    @strawberry.mutation
    async def peek(self, info: Info, input: UploadInput) -> str:  # noqa: A002
        async for piece in input.file.chunks:
            info.context.record.pieces.append(len(piece))
            raise InvalidInput.at("file", "The file is not a PDF.", FieldErrorCode.UNSUPPORTED)
        return "empty"


@strawberry.type
class Subscription:
    """Streams."""

    @strawberry.subscription
    async def count(self, info: Info, to: int, name: str = "count") -> AsyncGenerator[int, None]:
        record = info.context.record
        record.started.append(name)
        record.viewers.append(info.context.viewer)
        try:
            for number in range(to):
                yield number
            if name == "wait":
                await record.gate.wait()
                yield to
        finally:
            record.ended.append(name)

    @strawberry.subscription
    async def lost(self, after: int = 0) -> AsyncGenerator[int, None]:
        for number in range(after):
            yield number
        raise NotFound("lecture", uuid4())

    @strawberry.subscription
    async def crash(self) -> AsyncGenerator[int, None]:
        yield 0
        raise KeyError("/etc/secret")


SCHEMA = strawberry.Schema(Query, Mutation, Subscription, config=schema_config())


class NamedTokens:
    """Tokens are ``name`` or ``name:expiry``; the name ``mallory`` is never good."""

    async def verify(self, token: str) -> Viewer:
        name, _, expiry = token.partition(":")
        if not name or name == "mallory":
            raise Unauthenticated
        expires_at = float(expiry) if expiry else time.time() + 3600
        return Viewer(uuid5(_NAMES, name), "test", name, False, expires_at)


class _BearerOnly:
    """Stands for the authentication middleware: HTTP requests come with a viewer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for name, value in scope["headers"]:
                if name == b"authorization":
                    token = value.decode().removeprefix("Bearer ")
                    scope["state"]["viewer"] = await NamedTokens().verify(token)
            scope["state"]["request_id"] = "request-1"
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await self._app(scope, receive, send)


@dataclass
class Edge:
    """A running edge and what its resolvers did."""

    address: str = ""
    record: Record = field(default_factory=Record)
    http: httpx.AsyncClient = field(init=False)

    def forget(self) -> "Edge":
        """Start a new record, where tests share an edge."""
        self.record = Record()
        return self

    async def post(self, query: str, **parameters: object) -> httpx.Response:
        """Send a plain JSON request."""
        headers = parameters.pop("headers", {})
        assert isinstance(headers, dict)
        body = {"query": query, **parameters}
        return await self.http.post("/graphql", json=body, headers=headers)


@asynccontextmanager
async def running_edge(
    graphiql: str | None = None, documents: PersistedDocuments | None = None, **changes: object
) -> AsyncIterator[Edge]:
    """Serve the edge on a free port; its Redis is away unless ``documents`` have one."""
    settings: Settings = load_settings(host="127.0.0.1", port=0, **changes)
    edge = Edge()
    endpoint = GraphQLEndpoint(
        SCHEMA,
        settings,
        NamedTokens(),
        documents or PersistedDocuments("unix:///nowhere", {}, only_known=False),
        lambda viewer, request_id: Context(edge.record, viewer, request_id),
        (lambda: graphiql) if graphiql else None,
    )
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        running_server(_BearerOnly(endpoint), settings) as edge.address,
        httpx.AsyncClient(
            base_url=edge.address, headers=headers, trust_env=False, verify=False, timeout=60
        ) as edge.http,
    ):
        yield edge
