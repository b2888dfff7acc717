"""Search: what was said in the viewer's lectures, and is written in their documents."""

from typing import Annotated

import strawberry

from app import domain
from app.resolvers.info import Info, OfCollection, OfCourse, OfTopic
from app.schema.kernel.scalars import parse_uuid
from app.schema.kernel.shapes import After, First
from app.schema.search import SearchHitConnection
from app.services.search import read

Query = Annotated[
    str,
    strawberry.argument(
        description="1 to 500 characters, whatever they are: quotes make phrases, `or` and `-` "
        "mean what they do in web search, and a `*` stands for the rest of a word."
    ),
]


@strawberry.type
class SearchQueries:
    """Finding passages."""

    @strawberry.field(
        description="Through what was said in the viewer's lectures and written in their "
        "documents; at most 200 hits, the best first. Passages of a lecture that follow each "
        "other are one."
    )
    async def search(
        self,
        info: Info,
        query: Query,
        mode: Annotated[
            domain.SearchMode | None, strawberry.argument(description="How.")
        ] = domain.SearchMode.HYBRID,
        course_id: OfCourse = None,
        lecture_id: Annotated[
            strawberry.ID | None, strawberry.argument(description="In this lecture alone.")
        ] = None,
        document_id: Annotated[
            strawberry.ID | None, strawberry.argument(description="In this document alone.")
        ] = None,
        topic_id: OfTopic = None,
        collection_id: OfCollection = None,
        first: First = 20,
        after: After = None,
    ) -> SearchHitConnection:
        """Return a page of hits."""
        ids = {
            "lectureId": lecture_id,
            "documentId": document_id,
            "topicId": topic_id,
            "collectionId": collection_id,
        }
        named = (id_ if id_ is None else parse_uuid(id_, name) for name, id_ in ids.items())
        where = read.SearchFilter(course_id, *named)
        embedder, how = info.context.app.backends.embedder, mode or domain.SearchMode.HYBRID
        page = await read.search(
            info.context.session, embedder, info.context.viewer, query, how, where, first, after
        )
        return SearchHitConnection.from_page(page, info.context)
