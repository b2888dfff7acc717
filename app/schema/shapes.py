"""The shapes that all others share: nodes, errors, and pages."""

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import strawberry

from app.services.keyset import Page

Shape = TypeVar("Shape")
Row = TypeVar("Row")


@strawberry.interface
class Node:
    """Anything with an id of its own."""

    id: strawberry.ID = strawberry.field(
        description="A UUID in its canonical text form, as are all ids in this API."
    )


@strawberry.interface(description="Every error that a mutation can return implements this.")
class Error:
    """Every error that a mutation can return."""

    message: str


@strawberry.type
class PageInfo:
    """Where a page stands in its list."""

    has_next_page: bool
    has_previous_page: bool
    start_cursor: str | None
    end_cursor: str | None


@strawberry.type
class Edge(Generic[Shape]):
    """An item, and the cursor after which the next page starts."""

    cursor: str
    node: Shape


async def _count_all(root: Any) -> int:
    total: int = await root.count()
    return total


@strawberry.type
class Connection(Generic[Shape]):
    """One page of a list; ``totalCount`` is counted only where it is selected."""

    edges: list[Edge[Shape]]
    nodes: list[Shape]
    page_info: PageInfo
    count: strawberry.Private[Callable[[], Awaitable[int]]]

    total_count: int = strawberry.field(
        resolver=_count_all, description="Of the whole list, whatever the page."
    )


def make_connection(
    page: Page[Row], shape: Callable[[Row], Shape], count: Callable[[], Awaitable[int]]
) -> Connection[Shape]:
    """Return the page in its public shape."""
    nodes = [shape(row) for row in page.rows]
    edges = [
        Edge(cursor=cursor, node=node) for cursor, node in zip(page.cursors, nodes, strict=True)
    ]
    info = PageInfo(
        has_next_page=page.has_next,
        has_previous_page=page.has_previous,
        start_cursor=page.cursors[0] if page.cursors else None,
        end_cursor=page.cursors[-1] if page.cursors else None,
    )
    return Connection(edges=edges, nodes=nodes, page_info=info, count=count)
