"""The public shape of the viewer, and of what the service allows everyone."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import strawberry

from app.domain import LectureStatus
from app.schema.kernel.scalars import BigInt
from app.schema.lectures import LectureStatusCount


async def _stored_bytes(root: Any) -> BigInt:
    return BigInt(await root.sum_up())


async def _lecture_counts(root: Any) -> list[LectureStatusCount]:
    counts = await root.count_lectures()
    return [
        LectureStatusCount(status=status, count=counts.get(status, 0)) for status in LectureStatus
    ]


@strawberry.type
class Viewer:
    """Who is asking."""

    id: strawberry.ID = strawberry.field(description="The user's id, a UUID.")
    is_admin: bool = strawberry.field(
        description="Whether they may read everything, and delete it for all."
    )
    stored_bytes_limit: BigInt | None = strawberry.field(
        description="How much the viewer's documents may take together; null where nothing limits "
        "them."
    )
    sum_up: strawberry.Private[Callable[[], Awaitable[int]]]
    stored_bytes: BigInt = strawberry.field(
        resolver=_stored_bytes,
        description="The sizes of all documents that the viewer is linked to, summed up.",
    )
    count_lectures: strawberry.Private[Callable[[], Awaitable[Mapping[LectureStatus, int]]]]
    lecture_counts: list[LectureStatusCount] = strawberry.field(
        resolver=_lecture_counts,
        description="How many lectures the viewer is linked to, by status: each of them once.",
    )


@strawberry.type
class Limits:
    """What a client should know before it asks."""

    max_upload_bytes: BigInt = strawberry.field(description="The largest upload; above it: 413.")
    operations_per_socket: int = strawberry.field(
        description="How many subscriptions one socket runs at once."
    )
    links_per_request: int = strawberry.field(
        description="How many links may be asked for in one request."
    )
    max_page_size: int = strawberry.field(
        description="The longest page, and the most ids in one request."
    )
