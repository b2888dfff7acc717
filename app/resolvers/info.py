"""What every resolver is given, and the few things that they all do with it."""

import time
from collections.abc import Awaitable, Callable
from uuid import UUID

import strawberry

from app.context import GraphQLContext
from app.db import models
from app.schema.document_types import Document
from app.services.documents import OwnDocument, get_document
from app.services.file_grants import DOCUMENT_FILE
from app.services.lectures import get_lecture
from app.services.ports import Session

Info = strawberry.Info[GraphQLContext, None]


def counter(info: Info, count: Callable[[Session], Awaitable[int]]) -> Callable[[], Awaitable[int]]:
    """Return a function that counts when it is called, in a session of its own."""

    async def in_own_session() -> int:
        async with info.context.session() as session:
            return await count(session)

    return in_own_session


def document_shape(info: Info) -> Callable[[OwnDocument], Document]:
    """Return the function that gives a document its public shape for this viewer."""
    context = info.context

    def sign(document_id: UUID, ttl_seconds: int) -> str:
        expires_at = int(time.time()) + ttl_seconds
        links = context.app.links
        return links.sign(DOCUMENT_FILE, document_id, context.viewer.id, expires_at)

    return lambda own: Document.from_model(own, sign)


async def lecture_by_id(info: Info, lecture_id: UUID) -> models.Lecture | None:
    """Return the lecture as the viewer may see it."""
    async with info.context.session() as session:
        return await get_lecture(session, info.context.viewer, lecture_id)


async def document_by_id(info: Info, document_id: UUID) -> OwnDocument | None:
    """Return the document as the viewer may see it."""
    async with info.context.session() as session:
        return await get_document(session, info.context.viewer, document_id)
