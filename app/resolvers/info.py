"""What every resolver is given, and the few things that they all do with it."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar
from uuid import UUID

import strawberry

from app.auth.links import steady_expiry
from app.context import GraphQLContext
from app.schema.documents import Document
from app.services.documents.file_grants import DOCUMENT_FILE
from app.services.documents.read import OwnDocument
from app.services.kernel.ports import Session

Info = strawberry.Info[GraphQLContext, None]
Answer = TypeVar("Answer")


def counter(
    info: Info, count: Callable[[Session], Awaitable[Answer]]
) -> Callable[[], Awaitable[Answer]]:
    """Return a function that counts when it is called, in a session of its own."""

    async def in_own_session() -> Answer:
        async with info.context.session() as session:
            return await count(session)

    return in_own_session


def document_shape(info: Info) -> Callable[[OwnDocument], Document]:
    """Return the function that gives a document its public shape for this viewer."""
    context = info.context

    def sign(document_id: UUID, ttl_seconds: int) -> tuple[str, int]:
        expires_at = steady_expiry(time.time(), ttl_seconds)
        query = context.app.links.sign(DOCUMENT_FILE, document_id, context.viewer.id, expires_at)
        return query, expires_at

    return lambda own: Document.from_model(own, sign)
