"""Transcriptions: what is read, changed and watched of them."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import strawberry

from app import domain
from app.resolvers.info import Info, Input, OfCollection, OfTopic, counter
from app.schema.kernel.scalars import parse_optional_uuid, parse_uuid
from app.schema.kernel.shapes import After, Connection, First, ItemId, make_connection
from app.schema.transcripts import (
    CancelTranscriptionResult,
    DeleteTranscriptionPayload,
    DeleteTranscriptionResult,
    RequestTranscriptionInput,
    RequestTranscriptionPayload,
    RequestTranscriptionResult,
    Transcription,
    TranscriptionEvent,
    TranscriptionModel,
    TranscriptionPayload,
)
from app.services.kernel import live
from app.services.transcripts import read, request
from app.services.transcripts.states import ENDED


@strawberry.type
class TranscriptionQueries:
    """Reading transcriptions."""

    @strawberry.field(description="Null unless the viewer is linked to its lecture or an admin.")
    async def transcription(self, info: Info, id: ItemId) -> Transcription | None:
        """Return one transcription."""
        transcription_id = parse_uuid(id)
        async with info.context.session() as session:
            row = await read.get_transcription(session, info.context.viewer, transcription_id)
        return None if row is None else Transcription.from_model(row, info.context)

    @strawberry.field(description="Of the viewer's lectures, newest first.")
    async def transcriptions(
        self,
        info: Info,
        lecture_id: Annotated[
            strawberry.ID | None,
            strawberry.argument(description="Those of this lecture alone."),
        ] = None,
        status: Annotated[
            domain.TranscriptionStatus | None,
            strawberry.argument(description="Those that stand there alone."),
        ] = None,
        topic_id: OfTopic = None,
        collection_id: OfCollection = None,
        first: First = 20,
        after: After = None,
    ) -> Connection[Transcription]:
        """Return a page of the transcriptions of the viewer's lectures."""
        asking = info.context.viewer
        wanted = read.TranscriptionFilter(
            parse_optional_uuid(lecture_id, "lectureId"),
            status,
            parse_optional_uuid(topic_id, "topicId"),
            parse_optional_uuid(collection_id, "collectionId"),
        )
        async with info.context.session() as session:
            page = await read.list_transcriptions(session, asking, wanted, first, after)
        count = counter(info, lambda s: read.count_transcriptions(s, asking, wanted))
        return make_connection(page, lambda row: Transcription.from_model(row, info.context), count)

    @strawberry.field(description="What listens; empty where the service has no model.")
    async def transcription_models(self, info: Info) -> list[TranscriptionModel]:
        """Return the models, the default first."""
        models = info.context.app.backends.transcriber.models
        return [
            TranscriptionModel.from_model(model, is_default=number == 0)
            for number, model in enumerate(models)
        ]


@strawberry.type
class TranscriptionMutations:
    """Changing transcriptions."""

    @strawberry.mutation(
        description="Queues speech recognition of the lecture's audio. Idempotent per (lecture, "
        "model, language)."
    )
    async def request_transcription(
        self, info: Info, input: Annotated[RequestTranscriptionInput, Input]
    ) -> RequestTranscriptionResult:
        """Queue the transcription where there is none."""
        context = info.context
        requested = await request.request_transcription(
            context.app.backends.work,
            context.app.backends.transcriber,
            context.viewer,
            request.TranscriptionRequest(
                parse_uuid(input.lecture_id, "input", "lectureId"), input.model, input.language
            ),
            context.allowance,
        )
        transcription = Transcription.from_model(requested.transcription, info.context)
        return RequestTranscriptionPayload(transcription=transcription, created=requested.created)

    @strawberry.mutation(
        description="Stops a PENDING or PROCESSING transcription: FAILED with failure CANCELLED."
    )
    async def cancel_transcription(self, info: Info, id: ItemId) -> CancelTranscriptionResult:
        """Stop a transcription that waits or is being worked on."""
        work, viewer = info.context.app.backends.work, info.context.viewer
        row = await request.cancel_transcription(work, viewer, parse_uuid(id))
        return TranscriptionPayload(transcription=Transcription.from_model(row, info.context))

    @strawberry.mutation(description="The audio and the lecture stay.")
    async def delete_transcription(self, info: Info, id: ItemId) -> DeleteTranscriptionResult:
        """Delete a transcription and its text."""
        backends = info.context.app.backends
        deleted = await request.delete_transcription(
            backends.work, backends.storage, info.context.viewer, parse_uuid(id)
        )
        return DeleteTranscriptionPayload(transcription_id=strawberry.ID(str(deleted)))


@strawberry.type
class TranscriptionSubscriptions:
    """Watching transcriptions: every event is read anew, and access is checked with it."""

    @strawberry.subscription(description="As lectureStatus.")
    async def transcription_status(
        self, info: Info, id: ItemId
    ) -> AsyncGenerator[Transcription, None]:
        """Yield the transcription now, then at every change, until it has ended."""
        backends, asking, wanted = info.context.app.backends, info.context.viewer, parse_uuid(id)
        states = live.watch(
            backends.lookout,
            backends.wakeups,
            "transcription",
            wanted,
            lambda session: read.get_transcription(session, asking, wanted),
            ENDED,
        )
        async with aclosing(states):
            async for row in states:
                yield Transcription.from_model(row, info.context)

    @strawberry.subscription(description="As myLectures.")
    async def my_transcriptions(self, info: Info) -> AsyncGenerator[TranscriptionEvent, None]:
        """Yield every change of the transcriptions of the viewer's lectures."""
        backends, asking = info.context.app.backends, info.context.viewer
        changes = live.follow(backends.lookout, backends.wakeups, asking, read.TRANSCRIPTIONS)
        async with aclosing(changes):
            async for change in changes:
                yield TranscriptionEvent.from_change(change, info.context)
