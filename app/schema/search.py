"""The public shape of what a search finds."""

import strawberry

from app.domain import SearchMode
from app.schema.documents import Document
from app.schema.kernel.reading import Reading
from app.schema.kernel.shapes import PageInfo, expose_enum, page_info
from app.schema.lectures import Lecture, open_url
from app.services.documents.read import OwnDocument
from app.services.kernel.keyset import Page
from app.services.search.read import Hit

expose_enum(
    SearchMode,
    "How a query is compared with what is there.",
    HYBRID="By words and by meaning: what either finds, the best of both first.",
    SEMANTIC="By meaning alone.",
    KEYWORD="By words alone: what has all of them.",
)


@strawberry.type
class TextRange:
    """A part of a text: code points of it."""

    start: int = strawberry.field(description="The first, from 0.")
    end: int = strawberry.field(description="Behind the last.")


@strawberry.interface
class SearchHit:
    """A passage that was found."""

    score: float = strawberry.field(
        description="Higher is better; comparable within one answer alone."
    )
    text: str = strawberry.field(description="The passage.")
    highlights: list[TextRange] = strawberry.field(
        description="Words of the query in text; none for purely semantic hits."
    )


@strawberry.type
class LectureHit(SearchHit):
    """A passage of a lecture."""

    lecture: Lecture = strawberry.field(description="Where it is said.")
    start_seconds: float = strawberry.field(
        description="When the sentence begins that has most to do with the query."
    )
    end_seconds: float = strawberry.field(description="When the passage ends.")
    open_url: str | None = strawberry.field(
        description="The viewer page at that second, where there is one."
    )


@strawberry.type
class DocumentHit(SearchHit):
    """A passage of a document."""

    document: Document = strawberry.field(description="Where it is written.")
    page: int = strawberry.field(description="From 1.")


@strawberry.type
class SearchHitEdge:
    """A hit, and the cursor after which the next page starts."""

    cursor: str = strawberry.field(description="Where the hit stands: a page may follow it.")
    node: SearchHit = strawberry.field(description="The hit.")


@strawberry.type
class SearchHitConnection:
    """One page of what was found, the best first; at most 200 hits in all."""

    edges: list[SearchHitEdge] = strawberry.field(
        description="The hits with their cursors: caches that join pages take these."
    )
    nodes: list[SearchHit] = strawberry.field(description="The hits alone.")
    page_info: PageInfo = strawberry.field(description="Where the page stands in its list.")

    @classmethod
    def from_page(cls, page: Page[Hit], reading: Reading) -> "SearchHitConnection":
        """Return the page in its public shape."""
        nodes = [_shape(hit, reading) for hit in page.rows]
        edges = [
            SearchHitEdge(cursor=cursor, node=node)
            for cursor, node in zip(page.cursors, nodes, strict=True)
        ]
        return cls(edges=edges, nodes=nodes, page_info=page_info(page))


def _shape(hit: Hit, reading: Reading) -> SearchHit:
    highlights = [TextRange(start=start, end=end) for start, end in hit.highlights]
    if isinstance(hit.subject, OwnDocument):
        document = Document.from_model(hit.subject)
        return DocumentHit(
            score=hit.score, text=hit.text, highlights=highlights, document=document, page=hit.page
        )
    lecture = Lecture.from_model(hit.subject)
    return LectureHit(
        score=hit.score,
        text=hit.text,
        highlights=highlights,
        lecture=lecture,
        start_seconds=hit.start_seconds,
        end_seconds=hit.end_seconds,
        open_url=open_url(lecture, hit.start_seconds),
    )
