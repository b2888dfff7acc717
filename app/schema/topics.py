"""The public shape of topics, of what is assigned to them, and of what is asked of them."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import strawberry

from app.db import models
from app.domain import AssignedBy, TopicReview
from app.schema.kernel.errors import ConflictError, InvalidInputError, NotFoundError
from app.schema.kernel.reading import Asked
from app.schema.kernel.shapes import Node, expose_enum
from app.schema.transcripts import Transcription

expose_enum(
    AssignedBy,
    "Who has said that a transcription is about a topic.",
    USER="The viewer.",
    AI="A model that compares texts.",
)
expose_enum(
    TopicReview,
    "What the viewer says of it.",
    UNREVIEWED="Nothing yet.",
    ACCEPTED="It is right; what the viewer has assigned is so from the start.",
    REJECTED="It is wrong: it counts nowhere, and is not suggested again.",
)


async def _lecture_count(root: "Topic", info: Asked) -> int:
    return await info.context.loaders.topic_lectures.load(UUID(root.id))


@strawberry.type
class Topic(Node):
    """What the viewer learns about; nobody else sees it."""

    name: str = strawberry.field(
        description="What the viewer calls it; no two are the same but for case."
    )
    description: str | None = strawberry.field(
        description="What the viewer says of it; it helps to find what is about it."
    )
    lecture_count: int = strawberry.field(
        resolver=_lecture_count,
        description="The viewer's lectures that are about it, REJECTED ones left out.",
    )
    created_at: datetime = strawberry.field(description="When it was made.")
    updated_at: datetime = strawberry.field(description="When its name or description changed.")

    @classmethod
    def from_model(cls, row: models.Topic) -> "Topic":
        """Return the row in its public shape."""
        return cls(
            id=strawberry.ID(str(row.id)),
            name=row.name,
            description=row.description,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


@strawberry.type
class TopicAssignment:
    """That a transcription is about one of the viewer's topics."""

    topic: Topic = strawberry.field(description="Which topic.")
    transcription: Transcription = strawberry.field(description="Which transcription.")
    assigned_by: AssignedBy = strawberry.field(description="Who says so.")
    confidence: float | None = strawberry.field(
        description="0 to 1; null where the viewer assigned it."
    )
    reasoning: str | None = strawberry.field(
        description="The passage that speaks most for it, with its time; null where the viewer "
        "assigned it."
    )
    review: TopicReview = strawberry.field(description="What the viewer says of it.")
    created_at: datetime = strawberry.field(description="When it was first assigned.")

    @classmethod
    def from_model(
        cls, row: models.TranscriptionTopic, transcription: Transcription
    ) -> "TopicAssignment":
        """Return the row, read with its topic, in its public shape."""
        return cls(
            topic=Topic.from_model(row.topic),
            transcription=transcription,
            assigned_by=AssignedBy.AI if row.assigned_by is None else AssignedBy.USER,
            confidence=row.ai_confidence,
            reasoning=row.ai_reasoning,
            review=row.review,
            created_at=row.created_at,
        )


@strawberry.input
class CreateTopicInput:
    """A new topic."""

    name: str = strawberry.field(description="1 to 100 characters.")
    description: str | None = strawberry.field(
        default=None, description="At most 2,000 characters."
    )


@strawberry.input
class UpdateTopicInput:
    """What changes of a topic."""

    id: strawberry.ID = strawberry.field(description="Its id.")
    name: str | None = strawberry.field(
        default=strawberry.UNSET, description="Left out or null: as it was."
    )
    description: str | None = strawberry.field(
        default=strawberry.UNSET, description="Left out: as it was; null: none."
    )


@strawberry.type
class TopicPayload:
    """The topic."""

    topic: Topic = strawberry.field(description="As it stands now.")


CreateTopicResult = Annotated[
    TopicPayload | InvalidInputError | ConflictError,
    strawberry.union(
        "CreateTopicResult",
        description="A ConflictError where the viewer has a topic of that name, in any case of "
        "letters.",
    ),
]
UpdateTopicResult = Annotated[
    TopicPayload | InvalidInputError | ConflictError | NotFoundError,
    strawberry.union("UpdateTopicResult", description="As CreateTopicResult."),
]


@strawberry.type
class DeleteTopicPayload:
    """The topic is gone."""

    topic_id: strawberry.ID = strawberry.field(description="Its id.")


DeleteTopicResult = Annotated[
    DeleteTopicPayload | NotFoundError,
    strawberry.union(
        "DeleteTopicResult", description="The id of what is gone, or that there is none."
    ),
]


@strawberry.type
class TopicAssignmentsPayload:
    """The transcription, whose topics have changed."""

    transcription: Transcription = strawberry.field(description="As it stands now.")


AssignTopicsResult = Annotated[
    TopicAssignmentsPayload | InvalidInputError | NotFoundError,
    strawberry.union(
        "AssignTopicsResult",
        description="A NotFoundError names the transcription or the topic that there is not.",
    ),
]


SuggestTopicsResult = Annotated[
    TopicAssignmentsPayload | NotFoundError | ConflictError,
    strawberry.union(
        "SuggestTopicsResult",
        description="A ConflictError where suggestions need an index that the lecture has not got "
        "(yet).",
    ),
]


@strawberry.type
class TopicAssignmentPayload:
    """The assignment."""

    assignment: TopicAssignment = strawberry.field(description="As it stands now.")


ReviewTopicResult = Annotated[
    TopicAssignmentPayload | NotFoundError,
    strawberry.union(
        "ReviewTopicResult", description="The assignment, or that there is none to review."
    ),
]
