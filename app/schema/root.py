"""The root types: the one place that joins shapes and resolvers."""

import inspect
from collections.abc import Iterable

import strawberry
from graphql import GraphQLNamedType
from strawberry.types.base import StrawberryObjectDefinition

from app.resolvers import mutations, queries, subscriptions
from app.schema.account import Limits, Viewer
from app.schema.courses import Course
from app.schema.documents import Document
from app.schema.kernel.errors import ERROR_MAP
from app.schema.kernel.limits import schema_config
from app.schema.kernel.shapes import Connection, LinkedConnection, Node
from app.schema.lectures import Lecture
from app.schema.mutation_types import (
    CancelLectureDownloadResult,
    DeleteDocumentResult,
    DeleteLectureResult,
    RequestLectureDownloadResult,
    RetryLectureDownloadResult,
    UnlinkDocumentResult,
    UnlinkDocumentsResult,
    UnlinkLectureResult,
    UnlinkLecturesResult,
    UploadDocumentResult,
)


@strawberry.type
class Query:
    """Reading."""

    viewer: Viewer = strawberry.field(resolver=queries.viewer, description="Who is asking.")
    limits: Limits = strawberry.field(
        resolver=queries.limits, description="What a client should know before it asks."
    )
    node: Node | None = strawberry.field(
        resolver=queries.node, description="Null where the viewer may not see it."
    )
    nodes: list[Node | None] = strawberry.field(
        resolver=queries.nodes, description="1 to 100 ids; null where the viewer may not see it."
    )
    lecture: Lecture | None = strawberry.field(
        resolver=queries.lecture,
        description="Null unless the viewer is linked to it or an admin: a stranger's lecture and "
        "a missing one look the same.",
    )
    lectures: LinkedConnection[Lecture] = strawberry.field(
        resolver=queries.lectures, description="By when the viewer was linked, newest first."
    )
    document: Document | None = strawberry.field(
        resolver=queries.document,
        description="Null unless the viewer is linked to it or an admin, as for a lecture.",
    )
    documents: LinkedConnection[Document] = strawberry.field(
        resolver=queries.documents, description="By when the viewer was linked, newest first."
    )
    course: Course | None = strawberry.field(
        resolver=queries.course, description="Null where the viewer may not see it."
    )
    courses: Connection[Course] = strawberry.field(
        resolver=queries.courses, description="The catalogue, by code."
    )
    all_lectures: LinkedConnection[Lecture] = strawberry.field(
        resolver=queries.all_lectures, description="Every lecture of every user; admins only."
    )


@strawberry.type
class Mutation:
    """Changing.  What has answered is durable."""

    request_lecture_download: RequestLectureDownloadResult = strawberry.field(
        resolver=mutations.request_lecture_download,
        description="Links the viewer to the recording; new ones are queued. Idempotent per "
        "(course, recording), under any spelling of the URL.",
    )
    retry_lecture_download: RetryLectureDownloadResult = strawberry.field(
        resolver=mutations.retry_lecture_download,
        description="Puts a FAILED lecture back to PENDING and queues it.",
    )
    cancel_lecture_download: CancelLectureDownloadResult = strawberry.field(
        resolver=mutations.cancel_lecture_download,
        description="Stops a PENDING or DOWNLOADING lecture: FAILED with failure CANCELLED, "
        "nothing left on disk.",
    )
    upload_document: UploadDocumentResult = strawberry.field(
        resolver=mutations.upload_document,
        description="Takes in one PDF, by the GraphQL multipart request specification.",
    )
    unlink_lecture: UnlinkLectureResult = strawberry.field(
        resolver=mutations.unlink_lecture,
        description="Removes the viewer's link; the last one out removes lecture and files.",
    )
    unlink_document: UnlinkDocumentResult = strawberry.field(
        resolver=mutations.unlink_document,
        description="Removes the viewer's link; the last one out removes document and file.",
    )
    unlink_lectures: UnlinkLecturesResult = strawberry.field(
        resolver=mutations.unlink_lectures,
        description="As unlinkLecture, of 1 to 100 at once; one that is not there harms no other.",
    )
    unlink_documents: UnlinkDocumentsResult = strawberry.field(
        resolver=mutations.unlink_documents,
        description="As unlinkDocument, of 1 to 100 at once; one that is not there harms no other.",
    )
    delete_lecture: DeleteLectureResult = strawberry.field(
        resolver=mutations.delete_lecture, description="Admins only: for all users at once."
    )
    delete_document: DeleteDocumentResult = strawberry.field(
        resolver=mutations.delete_document, description="Admins only: for all users at once."
    )


@strawberry.type
class Subscription:
    """Watching."""

    lecture_status = strawberry.subscription(
        resolver=subscriptions.lecture_status,
        description="The lecture as it stands now, then at every change; ends once it is COMPLETED "
        "or FAILED, or the viewer loses it.",
    )
    my_lectures = strawberry.subscription(
        resolver=subscriptions.my_lectures,
        description="Every change of every lecture that the viewer is linked to, from now on (no "
        "snapshot: subscribe, then query); never ends by itself.",
    )
    my_documents = strawberry.subscription(
        resolver=subscriptions.my_documents,
        description="Likewise for documents: page counts, links gained and lost.",
    )


schema = strawberry.Schema(
    Query,
    Mutation,
    Subscription,
    types=[Lecture, Document, Course],
    config=schema_config(),
    exception_handlers=ERROR_MAP,
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
