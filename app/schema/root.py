"""The root types: the one place that joins shapes and resolvers, feature by feature."""

import inspect
from collections.abc import Iterable

import strawberry
from graphql import GraphQLNamedType
from strawberry.types.base import StrawberryObjectDefinition

from app.resolvers.account import AccountQueries
from app.resolvers.collections import CollectionMutations, CollectionQueries
from app.resolvers.courses import CourseQueries
from app.resolvers.documents import DocumentMutations, DocumentQueries, DocumentSubscriptions
from app.resolvers.lectures import LectureMutations, LectureQueries, LectureSubscriptions
from app.resolvers.nodes import NodeQueries
from app.resolvers.search import SearchQueries
from app.resolvers.topics import TopicMutations, TopicQueries
from app.resolvers.transcripts import (
    TranscriptionMutations,
    TranscriptionQueries,
    TranscriptionSubscriptions,
)
from app.schema.collections import Collection
from app.schema.courses import Course
from app.schema.documents import Document
from app.schema.kernel.errors import ERROR_MAP
from app.schema.kernel.limits import schema_config
from app.schema.lectures import Lecture, LinkRefusedHandler
from app.schema.search import DocumentHit, LectureHit
from app.schema.topics import Topic
from app.schema.transcripts import Transcription


@strawberry.type
class Query(
    CourseQueries,
    DocumentQueries,
    LectureQueries,
    TranscriptionQueries,
    SearchQueries,
    TopicQueries,
    CollectionQueries,
    NodeQueries,
    AccountQueries,
):
    """Reading."""


@strawberry.type
class Mutation(
    DocumentMutations,
    LectureMutations,
    TranscriptionMutations,
    TopicMutations,
    CollectionMutations,
):
    """Changing.  What has answered is durable."""


@strawberry.type
class Subscription(DocumentSubscriptions, LectureSubscriptions, TranscriptionSubscriptions):
    """Watching."""


schema = strawberry.Schema(
    Query,
    Mutation,
    Subscription,
    types=[Lecture, Document, Course, Transcription, Topic, Collection, LectureHit, DocumentHit],
    config=schema_config(),
    exception_handlers=(*ERROR_MAP, LinkRefusedHandler()),
)


def _describe(types: Iterable[GraphQLNamedType]) -> None:
    """Give each type that has no description its class's docstring."""
    for kind in types:
        definition = kind.extensions.get("strawberry-definition")
        if kind.description is None and isinstance(definition, StrawberryObjectDefinition):
            kind.description = inspect.getdoc(definition.origin)


_describe(schema._schema.type_map.values())


def sdl() -> str:
    """Return the schema in GraphQL's schema definition language, ending in a newline."""
    return schema.as_str().rstrip() + "\n"
