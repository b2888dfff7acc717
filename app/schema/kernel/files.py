"""Signed links to files, for pages and tabs that cannot send a token."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import strawberry

from app.errors import BadUserInput
from app.schema.kernel.reading import Reading

MIN_LINK_SECONDS = 30
MAX_LINK_SECONDS = 3600
DEFAULT_LINK_SECONDS = 300

TimeToLive = Annotated[
    int | None,
    strawberry.argument(description="Its life, 30 to 3600 seconds; half of it is left at least."),
]
IsDownload = Annotated[
    bool | None, strawberry.argument(description="Whether the answer is an attachment.")
]


@strawberry.type
class SignedLink:
    """Asked for again within the first half of its life it is the same link."""

    url: str = strawberry.field(
        description="Path on this service; whoever holds it reads the file, without a token."
    )
    expires_at: datetime = strawberry.field(
        description="When it ends: after half of the time that was asked for, up to all of it."
    )


def signed_link(
    reading: Reading,
    kind: str,
    path: str,
    item_id: UUID,
    ttl_seconds: int | None,
    *,
    download: bool,
) -> SignedLink:
    """Return a link to the file at the path, or raise `BadUserInput` for a life out of bounds."""
    ttl = DEFAULT_LINK_SECONDS if ttl_seconds is None else ttl_seconds
    if not MIN_LINK_SECONDS <= ttl <= MAX_LINK_SECONDS:
        message = f"`ttlSeconds` must be from {MIN_LINK_SECONDS} to {MAX_LINK_SECONDS}."
        raise BadUserInput(message, "ttlSeconds")
    query, expires_at = reading.sign_file(kind, item_id, ttl)
    url = f"{path}?{query}{'&download=1' if download else ''}"
    return SignedLink(url=url, expires_at=datetime.fromtimestamp(expires_at, UTC))
