"""Reading whole transcripts: however many one user asks for, the others' turns come."""

import asyncio
from uuid import uuid4

from app.auth.links import LinkSigner
from app.auth.viewer import Viewer
from app.backends import Backends, open_backends
from app.context import AppState, GraphQLContext
from app.domain import TranscriptFormat
from app.services.kernel.quotas import Allowance
from app.services.transcripts.payload import store
from app.settings import Settings
from tests.support.library import spoken
from tests.support.rows import new_viewer

MANY = 20


def context_of(state: AppState, backends: Backends, viewer: Viewer) -> GraphQLContext:
    return GraphQLContext(state, viewer, "request", Allowance(backends.requests, viewer.id, None))


async def test_a_long_list_of_one_user_holds_up_nobody_else(settings: Settings) -> None:
    async with open_backends(settings) as backends:
        key = await store(backends.storage, uuid4(), spoken("Cells have walls. " * 200))
        state = AppState(settings, backends, LinkSigner(b"secret"))
        ada, ben = (context_of(state, backends, new_viewer()) for _ in range(2))
        forms = [TranscriptFormat.SRT, TranscriptFormat.JSON]
        many = [
            asyncio.create_task(ada.text_of(key).export(forms[number % 2]))
            for number in range(MANY)
        ]
        text = await ben.text_of(key).load()
        assert text is not None
        assert text.segments[0].text == "Cells have walls."
        assert sum(task.done() for task in many) < MANY // 2
        assert all(await asyncio.gather(*many))
