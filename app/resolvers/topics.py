"""Topics: what is read and changed of them."""

from typing import Annotated

import strawberry

from app.resolvers.info import Info, Input, counter
from app.schema.kernel.scalars import given, parse_uuid
from app.schema.kernel.shapes import After, Connection, First, ItemId, make_connection
from app.schema.topics import (
    AssignTopicsResult,
    CreateTopicInput,
    CreateTopicResult,
    DeleteTopicPayload,
    DeleteTopicResult,
    ReviewTopicResult,
    SuggestTopicsResult,
    Topic,
    TopicAssignment,
    TopicAssignmentPayload,
    TopicAssignmentsPayload,
    TopicPayload,
    UpdateTopicInput,
    UpdateTopicResult,
)
from app.schema.transcripts import Transcription
from app.services.topics import assign, change, read, suggest

OfTranscription = Annotated[strawberry.ID, strawberry.argument(description="Which transcription.")]
OfTopic = Annotated[strawberry.ID, strawberry.argument(description="Which topic.")]


@strawberry.type
class TopicQueries:
    """Reading topics."""

    @strawberry.field(description="Null unless it is the viewer's.")
    async def topic(self, info: Info, id: ItemId) -> Topic | None:
        """Return one topic."""
        topic_id = parse_uuid(id)
        async with info.context.session() as session:
            row = await read.get_topic(session, info.context.viewer, topic_id)
        return None if row is None else Topic.from_model(row)

    @strawberry.field(description="The viewer's, by name.")
    async def topics(
        self,
        info: Info,
        search: Annotated[
            str | None,
            strawberry.argument(
                description="At most 8 words and 200 characters, each of which name or description "
                "must have."
            ),
        ] = None,
        first: First = 20,
        after: After = None,
    ) -> Connection[Topic]:
        """Return a page of the viewer's topics."""
        asking = info.context.viewer
        async with info.context.session() as session:
            page = await read.list_topics(session, asking, search, first, after)
        count = counter(info, lambda session: read.count_topics(session, asking, search))
        return make_connection(page, Topic.from_model, count)


@strawberry.type
class TopicMutations:
    """Changing topics, and what is assigned to them."""

    @strawberry.mutation(description="Makes a topic; a viewer has 500 at most.")
    async def create_topic(
        self, info: Info, input: Annotated[CreateTopicInput, Input]
    ) -> CreateTopicResult:
        """Make a topic of the viewer's."""
        work, viewer = info.context.app.backends.work, info.context.viewer
        row = await change.create_topic(work, viewer, input.name, input.description)
        return TopicPayload(topic=Topic.from_model(row))

    @strawberry.mutation(description="Changes what is given of a topic.")
    async def update_topic(
        self, info: Info, input: Annotated[UpdateTopicInput, Input]
    ) -> UpdateTopicResult:
        """Change a topic's name or description."""
        work, viewer = info.context.app.backends.work, info.context.viewer
        texts = given(name=input.name, description=input.description)
        topic_id = parse_uuid(input.id, "input", "id")
        row = await change.update_topic(work, viewer, topic_id, texts)
        return TopicPayload(topic=Topic.from_model(row))

    @strawberry.mutation(description="What is about it stays.")
    async def delete_topic(self, info: Info, id: ItemId) -> DeleteTopicResult:
        """Delete a topic."""
        work, viewer = info.context.app.backends.work, info.context.viewer
        deleted = await change.delete_topic(work, viewer, parse_uuid(id))
        return DeleteTopicPayload(topic_id=strawberry.ID(str(deleted)))

    @strawberry.mutation(description="By the viewer; up to 50 at once.")
    async def assign_topics(
        self,
        info: Info,
        transcription_id: OfTranscription,
        topic_ids: Annotated[list[strawberry.ID], strawberry.argument(description="1 to 50 ids.")],
    ) -> AssignTopicsResult:
        """Say that a transcription is about topics."""
        row = await assign.assign_topics(
            info.context.app.backends.work,
            info.context.viewer,
            parse_uuid(transcription_id, "transcriptionId"),
            [parse_uuid(each, "topicIds", index) for index, each in enumerate(topic_ids)],
        )
        return TopicAssignmentsPayload(transcription=Transcription.from_model(row, info.context))

    @strawberry.mutation(
        description="Forgets the assignment, whoever made it; reviewTopic remembers a rejection."
    )
    async def unassign_topic(
        self, info: Info, transcription_id: OfTranscription, topic_id: OfTopic
    ) -> AssignTopicsResult:
        """Forget that a transcription is about a topic."""
        row = await assign.unassign_topic(
            info.context.app.backends.work,
            info.context.viewer,
            parse_uuid(transcription_id, "transcriptionId"),
            parse_uuid(topic_id, "topicId"),
        )
        return TopicAssignmentsPayload(transcription=Transcription.from_model(row, info.context))

    @strawberry.mutation(
        description="Judges the viewer's topics against the transcript, now; done by itself when a "
        "transcript is indexed, and when a topic is new or has changed."
    )
    async def suggest_topics(
        self, info: Info, transcription_id: OfTranscription
    ) -> SuggestTopicsResult:
        """Say which of the viewer's topics a transcription is about."""
        app = info.context.app
        row = await suggest.suggest_topics(
            app.backends.work,
            app.backends.embedder,
            app.settings.topic_threshold,
            info.context.viewer,
            parse_uuid(transcription_id, "transcriptionId"),
        )
        return TopicAssignmentsPayload(transcription=Transcription.from_model(row, info.context))

    @strawberry.mutation(description="Says whether an assignment is right, which is remembered.")
    async def review_topic(
        self,
        info: Info,
        transcription_id: OfTranscription,
        topic_id: OfTopic,
        accept: Annotated[bool, strawberry.argument(description="ACCEPTED, or else REJECTED.")],
    ) -> ReviewTopicResult:
        """Accept or reject an assignment."""
        row, assignment = await assign.review_topic(
            info.context.app.backends.work,
            info.context.viewer,
            parse_uuid(transcription_id, "transcriptionId"),
            parse_uuid(topic_id, "topicId"),
            accept=accept,
        )
        transcription = Transcription.from_model(row, info.context)
        return TopicAssignmentPayload(
            assignment=TopicAssignment.from_model(assignment, transcription)
        )
