"""Subscriptions: every event is read from the database anew, and access is checked with it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import strawberry

from app.resolvers.info import Info, document_shape
from app.schema.documents import DocumentEvent
from app.schema.kernel.scalars import parse_uuid
from app.schema.kernel.shapes import ItemId
from app.schema.lectures import Lecture, LectureEvent
from app.services.kernel import live


async def lecture_status(info: Info, id: ItemId) -> AsyncGenerator[Lecture, None]:
    """Yield the lecture now, then at every change, until it has ended."""
    backends = info.context.app.backends
    states = live.watch_lecture(
        backends.lookout, backends.wakeups, info.context.viewer, parse_uuid(id)
    )
    async with aclosing(states):
        async for row in states:
            yield Lecture.from_model(row)


async def my_lectures(info: Info) -> AsyncGenerator[LectureEvent, None]:
    """Yield every change of the viewer's lectures."""
    backends = info.context.app.backends
    changes = live.follow(backends.lookout, backends.wakeups, info.context.viewer, live.LECTURES)
    async with aclosing(changes):
        async for change in changes:
            yield LectureEvent.from_change(change)


async def my_documents(info: Info) -> AsyncGenerator[DocumentEvent, None]:
    """Yield every change of the viewer's documents."""
    backends, shape = info.context.app.backends, document_shape(info)
    changes = live.follow(backends.lookout, backends.wakeups, info.context.viewer, live.DOCUMENTS)
    async with aclosing(changes):
        async for change in changes:
            document = None if change.item is None else shape(change.item)
            document_id = strawberry.ID(str(change.item_id))
            yield DocumentEvent(kind=change.kind, document_id=document_id, document=document)
