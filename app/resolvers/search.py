"""Search: what was said in the viewer's lectures, and is written in their documents."""

from typing import Annotated

import strawberry

from app import domain
from app.resolvers.info import Info, OfCollection, OfCourse, OfTopic
from app.schema.kernel.scalars import parse_optional_uuid
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
        where = read.SearchFilter(
            course_id,
            parse_optional_uuid(lecture_id, "lectureId"),
            parse_optional_uuid(document_id, "documentId"),
            parse_optional_uuid(topic_id, "topicId"),
            parse_optional_uuid(collection_id, "collectionId"),
        )
        embedder, how = info.context.app.backends.embedder, mode or domain.SearchMode.HYBRID
        async with info.context.session() as session:
            page = await read.search(
                session, embedder, info.context.viewer, query, how, where, first, after
            )
        return SearchHitConnection.from_page(page, info.context)
