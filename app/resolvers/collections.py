"""Collections: what is read and changed of them."""

from typing import Annotated

import strawberry

from app.db import models
from app.resolvers.info import Info, Input, counter
from app.schema.collections import (
    AddToCollectionInput,
    ChangeCollectionResult,
    Collection,
    CollectionPayload,
    CreateCollectionInput,
    CreateCollectionResult,
    DeleteCollectionPayload,
    DeleteCollectionResult,
    UpdateCollectionInput,
    UpdateCollectionResult,
)
from app.schema.kernel.scalars import given, parse_uuid
from app.schema.kernel.shapes import After, Connection, First, ItemId, make_connection
from app.services.collections import change, read


@strawberry.type
class CollectionQueries:
    """Reading collections."""

    @strawberry.field(description="Null unless it is the viewer's.")
    async def collection(self, info: Info, id: ItemId) -> Collection | None:
        """Return one collection."""
        collection_id = parse_uuid(id)
        async with info.context.session() as session:
            row = await read.get_collection(session, info.context.viewer, collection_id)
        return None if row is None else Collection.from_model(row)

    @strawberry.field(description="The viewer's, newest first.")
    async def collections(
        self, info: Info, first: First = 20, after: After = None
    ) -> Connection[Collection]:
        """Return a page of the viewer's collections."""
        asking = info.context.viewer
        async with info.context.session() as session:
            page = await read.list_collections(session, asking, first, after)
        count = counter(info, lambda session: read.count_collections(session, asking))
        return make_connection(page, Collection.from_model, count)


@strawberry.type
class CollectionMutations:
    """Changing collections."""

    @strawberry.mutation(description="Makes a collection; a viewer has 500 at most.")
    async def create_collection(
        self, info: Info, input: Annotated[CreateCollectionInput, Input]
    ) -> CreateCollectionResult:
        """Make a collection of the viewer's."""
        work, viewer = info.context.app.backends.work, info.context.viewer
        row = await change.create_collection(work, viewer, input.name, input.description)
        return _payload(row)

    @strawberry.mutation(description="Changes what is given of a collection.")
    async def update_collection(
        self, info: Info, input: Annotated[UpdateCollectionInput, Input]
    ) -> UpdateCollectionResult:
        """Change a collection's name or description."""
        work, viewer = info.context.app.backends.work, info.context.viewer
        collection_id = parse_uuid(input.id, "input", "id")
        texts = given(name=input.name, description=input.description)
        return _payload(await change.update_collection(work, viewer, collection_id, texts))

    @strawberry.mutation(description="What is in it stays in the viewer's lists.")
    async def delete_collection(self, info: Info, id: ItemId) -> DeleteCollectionResult:
        """Delete a collection."""
        work, viewer = info.context.app.backends.work, info.context.viewer
        deleted = await change.delete_collection(work, viewer, parse_uuid(id))
        return DeleteCollectionPayload(collection_id=strawberry.ID(str(deleted)))

    @strawberry.mutation(
        description="Brings a lecture or document into a collection, of 1,000 items at most, or to "
        "another place in it."
    )
    async def add_to_collection(
        self, info: Info, input: Annotated[AddToCollectionInput, Input]
    ) -> ChangeCollectionResult:
        """Bring a lecture or document to its place."""
        row = await change.add_to_collection(
            info.context.app.backends.work,
            info.context.viewer,
            parse_uuid(input.collection_id, "input", "collectionId"),
            parse_uuid(input.subject_id, "input", "subjectId"),
            input.position,
        )
        return _payload(row)

    @strawberry.mutation(description="Takes a lecture or document out; what follows moves up.")
    async def remove_from_collection(
        self,
        info: Info,
        collection_id: Annotated[
            strawberry.ID, strawberry.argument(description="Which collection.")
        ],
        subject_id: Annotated[
            strawberry.ID, strawberry.argument(description="The lecture or the document.")
        ],
    ) -> ChangeCollectionResult:
        """Take a lecture or document out of a collection."""
        row = await change.remove_from_collection(
            info.context.app.backends.work,
            info.context.viewer,
            parse_uuid(collection_id, "collectionId"),
            parse_uuid(subject_id, "subjectId"),
        )
        return _payload(row)


def _payload(row: models.Collection) -> CollectionPayload:
    return CollectionPayload(collection=Collection.from_model(row))
