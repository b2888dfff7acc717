"""What every resolver is given, and the few things that they all do with it.

Each query opens short sessions of its own, since sibling fields run concurrently.  Errors pass
through to the error map.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar
from uuid import UUID

import strawberry

from app.context import GraphQLContext
from app.services.kernel.ports import Session

Info = strawberry.Info[GraphQLContext, None]
Answer = TypeVar("Answer")

Input = strawberry.argument(description="What is asked for.")
Ids = Annotated[list[strawberry.ID], strawberry.argument(description="1 to 100 ids.")]
OfCourse = Annotated[UUID | None, strawberry.argument(description="Those of this course alone.")]
OfTopic = Annotated[
    strawberry.ID | None,
    strawberry.argument(
        description="Those about this topic of the viewer's alone, REJECTED ones left out."
    ),
]
OfCollection = Annotated[
    strawberry.ID | None,
    strawberry.argument(description="Those in this collection of the viewer's alone."),
]


def counter(
    info: Info, count: Callable[[Session], Awaitable[Answer]]
) -> Callable[[], Awaitable[Answer]]:
    """Return a function that counts when it is called, in a session of its own."""

    async def in_own_session() -> Answer:
        async with info.context.session() as session:
            return await count(session)

    return in_own_session
