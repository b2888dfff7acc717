"""The shapes that all others share: nodes, errors, and pages."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Generic, TypeVar

import strawberry

from app.domain import EventKind, SummarySource
from app.services.kernel.keyset import Linked, Page

Shape = TypeVar("Shape")
Row = TypeVar("Row")

ItemId = Annotated[strawberry.ID, strawberry.argument(description="Its id, a UUID.")]
First = Annotated[
    int | None, strawberry.argument(description="How long the page is at most: 1 to 100.")
]
After = Annotated[
    str | None,
    strawberry.argument(description="The cursor that the page follows; left out: the first page."),
]


def expose_enum(kind: type[StrEnum], description: str, **meanings: str) -> None:
    """Make the words of the domain a GraphQL enum, each of them with what it means."""
    exposed: Any = strawberry.enum(kind, description=description)
    for value in exposed.__strawberry_definition__.values:
        value.description = meanings[value.name]


expose_enum(
    EventKind,
    "What happened to an item of the viewer's.",
    LINKED="The viewer has it now.",
    CHANGED="It is another than it was.",
    REMOVED="The viewer has it no more: unlinked, or deleted.",
)
expose_enum(
    SummarySource,
    "Who wrote a summary.",
    MODEL="A language model that the service is configured for.",
    EXTRACT="The lecture itself: these are its most central sentences.",
)


@strawberry.interface
class Node:
    """Anything with an id of its own."""

    id: strawberry.ID = strawberry.field(
        description="A UUID in its canonical text form, as are all ids in this API."
    )


@strawberry.interface
class Error:
    """Every error that a mutation can return implements this."""

    message: str = strawberry.field(description="What is wrong, for people.")


@strawberry.type
class PageInfo:
    """Where a page stands in its list."""

    has_next_page: bool = strawberry.field(description="Whether more follow.")
    has_previous_page: bool = strawberry.field(description="True wherever `after` is given.")
    start_cursor: str | None = strawberry.field(description="Of the first item; null: no item.")
    end_cursor: str | None = strawberry.field(
        description="Of the last item: the next page's `after`; null: no item."
    )


_CURSOR = "Where the item stands: a page may follow it."
_EDGES = "The items with their cursors: caches that join pages take these."
_NODES = "The items alone."
_TOTAL = "Of the whole list, whatever the page."


@strawberry.type
class Edge(Generic[Shape]):
    """An item of a list, and the cursor after which the next page starts."""

    cursor: str = strawberry.field(description=_CURSOR)
    node: Shape = strawberry.field(description="The item.")


@strawberry.type(name="Edge")
class LinkedEdge(Generic[Shape]):
    """An item that users are linked to, and the cursor after which the next page starts."""

    cursor: str = strawberry.field(description=_CURSOR)
    node: Shape = strawberry.field(description="The item.")
    linked_at: datetime | None = strawberry.field(
        description="When the viewer was linked; null in lists of everyone's."
    )


async def _count_all(root: Any) -> int:
    total: int = await root.count()
    return total


@strawberry.type
class Connection(Generic[Shape]):
    """One page of a list."""

    edges: list[Edge[Shape]] = strawberry.field(description=_EDGES)
    nodes: list[Shape] = strawberry.field(description=_NODES)
    page_info: PageInfo = strawberry.field(description="Where the page stands in its list.")
    count: strawberry.Private[Callable[[], Awaitable[int]]]
    total_count: int = strawberry.field(resolver=_count_all, description=_TOTAL)


@strawberry.type(name="Connection")
class LinkedConnection(Generic[Shape]):
    """One page of a list of what users are linked to."""

    edges: list[LinkedEdge[Shape]] = strawberry.field(description=_EDGES)
    nodes: list[Shape] = strawberry.field(description=_NODES)
    page_info: PageInfo = strawberry.field(description="Where the page stands in its list.")
    count: strawberry.Private[Callable[[], Awaitable[int]]]
    total_count: int = strawberry.field(resolver=_count_all, description=_TOTAL)


def make_connection(
    page: Page[Row], shape: Callable[[Row], Shape], count: Callable[[], Awaitable[int]]
) -> Connection[Shape]:
    """Return the page in its public shape; ``count`` is asked only where the total is selected."""
    nodes = [shape(row) for row in page.rows]
    edges = [
        Edge(cursor=cursor, node=node) for cursor, node in zip(page.cursors, nodes, strict=True)
    ]
    return Connection(edges=edges, nodes=nodes, page_info=page_info(page), count=count)


def make_linked_connection(
    page: Page[Linked[Row]], shape: Callable[[Row], Shape], count: Callable[[], Awaitable[int]]
) -> LinkedConnection[Shape]:
    """Return the page as `make_connection` does, and each item with when it was linked."""
    nodes = [shape(linked.row) for linked in page.rows]
    edges = [
        LinkedEdge(cursor=cursor, node=node, linked_at=linked.linked_at)
        for cursor, node, linked in zip(page.cursors, nodes, page.rows, strict=True)
    ]
    return LinkedConnection(edges=edges, nodes=nodes, page_info=page_info(page), count=count)


def page_info(page: Page[Any]) -> PageInfo:
    """Return where the page stands in its list."""
    return PageInfo(
        has_next_page=page.has_next,
        has_previous_page=page.has_previous,
        start_cursor=page.cursors[0] if page.cursors else None,
        end_cursor=page.cursors[-1] if page.cursors else None,
    )
