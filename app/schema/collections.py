"""The public shape of collections, of what is in them, and of what is asked of them."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import strawberry

from app.db import models
from app.errors import NotFound
from app.schema.documents import Document
from app.schema.kernel.errors import InvalidInputError, NotFoundError
from app.schema.kernel.reading import Asked
from app.schema.kernel.shapes import After, Connection, First, Node, make_connection
from app.schema.lectures import Lecture
from app.services.kernel.keyset import decode_number, make_page, number_key, page_size

CollectionItemSubject = Annotated[
    Lecture | Document,
    strawberry.union("CollectionItemSubject", description="What a collection may hold."),
]


async def _subject(root: "CollectionItem", info: Asked) -> CollectionItemSubject:
    loaders, row = info.context.loaders, root.row
    if row.lecture_id is not None:
        lecture = await loaders.lectures.load(row.lecture_id)
        if lecture is None:  # Lost since the item was read.
            raise NotFound("lecture", row.lecture_id)
        return Lecture.from_model(lecture)
    document_id = row.document_id or UUID(int=0)  # An item has the one or the other.
    document = await loaders.documents.load(document_id)
    if document is None:
        raise NotFound("document", document_id)
    return Document.from_model(document)


@strawberry.type
class CollectionItem:
    """A lecture or document in its place."""

    row: strawberry.Private[models.CollectionItem]
    position: int = strawberry.field(description="Its place, from 0, without a gap.")
    subject: CollectionItemSubject = strawberry.field(
        resolver=_subject, description="What is there."
    )
    added_at: datetime = strawberry.field(description="When it came into the collection.")

    @classmethod
    def from_model(cls, row: models.CollectionItem) -> "CollectionItem":
        """Return the row in its public shape."""
        return cls(row=row, position=row.position, added_at=row.created_at)


async def _items(
    root: "Collection", info: Asked, first: First = 20, after: After = None
) -> Connection[CollectionItem]:
    loaders, id_ = info.context.loaders, UUID(root.id)
    size, start = page_size(first), 0 if after is None else decode_number(after) + 1
    rows = await loaders.collection_items.load((id_, start, size))
    page = make_page(rows, [number_key(row.position) for row in rows], size, after=after)
    return make_connection(
        page, CollectionItem.from_model, lambda: loaders.collection_counts.load(id_)
    )


@strawberry.type
class Collection(Node):
    """A list of lectures and documents that is the viewer's own, in the viewer's order."""

    name: str = strawberry.field(description="What the viewer calls it.")
    description: str | None = strawberry.field(description="What the viewer says of it.")
    items: Connection[CollectionItem] = strawberry.field(
        resolver=_items, description="What is in it, by position."
    )
    created_at: datetime = strawberry.field(description="When it was made.")
    updated_at: datetime = strawberry.field(description="When its name or description changed.")

    @classmethod
    def from_model(cls, row: models.Collection) -> "Collection":
        """Return the row in its public shape."""
        return cls(
            id=strawberry.ID(str(row.id)),
            name=row.name,
            description=row.description,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


@strawberry.input
class CreateCollectionInput:
    """A new collection."""

    name: str = strawberry.field(description="1 to 100 characters.")
    description: str | None = strawberry.field(
        default=None, description="At most 2,000 characters."
    )


@strawberry.input
class UpdateCollectionInput:
    """What changes of a collection."""

    id: strawberry.ID = strawberry.field(description="Its id.")
    name: str | None = strawberry.field(
        default=strawberry.UNSET, description="Left out or null: as it was."
    )
    description: str | None = strawberry.field(
        default=strawberry.UNSET, description="Left out: as it was; null: none."
    )


@strawberry.input
class AddToCollectionInput:
    """What comes into a collection, and where."""

    collection_id: strawberry.ID = strawberry.field(description="Which collection.")
    subject_id: strawberry.ID = strawberry.field(
        description="A lecture or a document that the viewer is linked to."
    )
    position: int | None = strawberry.field(
        default=None,
        description="Position from 0; left out or beyond the end: last. Adding what is in it "
        "moves it.",
    )


@strawberry.type
class CollectionPayload:
    """The collection."""

    collection: Collection = strawberry.field(description="As it stands now.")


CreateCollectionResult = Annotated[
    CollectionPayload | InvalidInputError,
    strawberry.union("CreateCollectionResult", description="The collection, or why there is none."),
]
UpdateCollectionResult = Annotated[
    CollectionPayload | InvalidInputError | NotFoundError,
    strawberry.union(
        "UpdateCollectionResult", description="The collection, or why it is as it was."
    ),
]
ChangeCollectionResult = Annotated[
    CollectionPayload | InvalidInputError | NotFoundError,
    strawberry.union(
        "ChangeCollectionResult", description="The collection, or why its items are as they were."
    ),
]


@strawberry.type
class DeleteCollectionPayload:
    """The collection is gone; what was in it is where it was."""

    collection_id: strawberry.ID = strawberry.field(description="Its id.")


DeleteCollectionResult = Annotated[
    DeleteCollectionPayload | NotFoundError,
    strawberry.union(
        "DeleteCollectionResult", description="The id of what is gone, or that there is none."
    ),
]
