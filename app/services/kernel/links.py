"""Leaving items that users share: the last link out takes the row and its objects with it.

Rows go first, in one transaction under the item's row lock; objects follow the commit, and the
sweep collects those that a crash in between leaves.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import delete, exists, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.auth.viewer import Viewer
from app.db.models import UserDocument, UserLecture
from app.domain import FieldErrorCode
from app.errors import FieldProblem, InvalidInput
from app.services.kernel.keyset import MAX_PAGE_SIZE


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of the item: its id, and whether the last link went."""

    item_id: UUID
    deleted: bool


def require_some(ids: Sequence[UUID]) -> None:
    """Raise `InvalidInput` where none or more than `MAX_PAGE_SIZE` are named."""
    if not ids:
        raise InvalidInput(FieldProblem(("ids",), "Name one at least.", FieldErrorCode.REQUIRED))
    if len(ids) > MAX_PAGE_SIZE:
        message = f"Name {MAX_PAGE_SIZE} at most."
        raise InvalidInput(FieldProblem(("ids",), message, FieldErrorCode.TOO_MANY))


async def leave(
    session: AsyncSession,
    viewer: Viewer,
    item: InstrumentedAttribute[UUID],
    link: type[UserLecture | UserDocument],
    linked_item: InstrumentedAttribute[UUID],
    ids: Collection[UUID],
) -> tuple[set[UUID], set[UUID]]:
    """Delete the viewer's links to the locked items: those that had one, and that have none now."""
    own = delete(link).where(linked_item.in_(ids), link.user_id == viewer.id)
    left = set(await session.scalars(own.returning(linked_item)))
    still = select(item).where(item.in_(left), exists().where(linked_item == item))
    return left, left - set(await session.scalars(still))
