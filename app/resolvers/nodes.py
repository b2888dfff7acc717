"""Nodes: things of any type by their ids."""

from typing import Annotated
from uuid import UUID

import strawberry

from app.errors import BadUserInput
from app.resolvers.info import Info
from app.schema.collections import Collection
from app.schema.courses import Course
from app.schema.documents import Document
from app.schema.kernel.scalars import parse_uuid, parse_uuids
from app.schema.kernel.shapes import ItemId, Node
from app.schema.lectures import Lecture
from app.schema.topics import Topic
from app.schema.transcripts import Transcription
from app.services.collections.read import get_collections
from app.services.courses.read import get_courses
from app.services.documents.read import get_documents
from app.services.kernel.keyset import MAX_PAGE_SIZE
from app.services.lectures.read import get_lectures
from app.services.topics.read import get_topics
from app.services.transcripts.read import get_transcriptions


@strawberry.type
class NodeQueries:
    """Reading by id alone."""

    @strawberry.field(description="Null where the viewer may not see it.")
    async def node(self, info: Info, id: ItemId) -> Node | None:
        """Return whatever the viewer may see under this id."""
        return (await _find(info, [parse_uuid(id)]))[0]

    @strawberry.field(description="1 to 100 ids; null where the viewer may not see it.")
    async def nodes(
        self,
        info: Info,
        ids: Annotated[
            list[strawberry.ID],
            strawberry.argument(
                description="1 to 100 ids, of lectures, documents, courses, transcriptions, "
                "topics and collections."
            ),
        ],
    ) -> list[Node | None]:
        """Return whatever the viewer may see under these ids, in their order."""
        if not 1 <= len(ids) <= MAX_PAGE_SIZE:
            raise BadUserInput(f"`ids` must be 1 to {MAX_PAGE_SIZE} ids.", "ids")
        return await _find(info, parse_uuids(ids))


async def _find(info: Info, ids: list[UUID]) -> list[Node | None]:
    """Ask for one type after the other, each for what is not found yet."""
    asking, found = info.context.viewer, dict[UUID, Node]()
    async with info.context.session() as session:
        for id_, row in (await get_lectures(session, asking, ids)).items():
            found[id_] = Lecture.from_model(row)
        if rest := set(ids) - found.keys():
            for id_, own in (await get_documents(session, asking, rest)).items():
                found[id_] = Document.from_model(own)
        if rest := set(ids) - found.keys():
            for id_, course in (await get_courses(session, asking, rest)).items():
                found[id_] = Course.from_model(course)
        if rest := set(ids) - found.keys():
            for id_, words in (await get_transcriptions(session, asking, rest)).items():
                found[id_] = Transcription.from_model(words, info.context)
        if rest := set(ids) - found.keys():
            for id_, topic in (await get_topics(session, asking, rest)).items():
                found[id_] = Topic.from_model(topic)
        if rest := set(ids) - found.keys():
            for id_, collection in (await get_collections(session, asking, rest)).items():
                found[id_] = Collection.from_model(collection)
    return [found.get(id_) for id_ in ids]
