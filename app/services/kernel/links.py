"""Leaving items that users share: the last link out takes the row and its objects with it.

Rows go first, in one transaction under the item's row lock; objects follow the commit, and the
sweep collects those that a crash in between leaves.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.orm import InstrumentedAttribute

from app.auth.viewer import Viewer
from app.db.models import Document, Lecture, UserDocument, UserLecture
from app.domain import FieldErrorCode
from app.errors import FieldProblem, InvalidInput
from app.services.kernel.keyset import MAX_PAGE_SIZE
from app.services.kernel.unit_of_work import UnitOfWork

Item = TypeVar("Item", Lecture, Document)


@dataclass(frozen=True, slots=True)
class Shared:
    """Rows that users are linked to, and that go with the last link.

    ``linked_id`` names the row in a ``link``; ``remove`` deletes locked rows and returns the keys
    of their objects; who watches the rows listens to ``topic``.
    """

    topic: str
    link: type[UserLecture | UserDocument]
    linked_id: InstrumentedAttribute[UUID]
    remove: Callable[[UnitOfWork, Sequence[Any]], Awaitable[list[str]]]


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
    unit: UnitOfWork, viewer: Viewer, shared: Shared, items: Iterable[Item]
) -> tuple[dict[UUID, Removal], list[str]]:
    """Delete the viewer's links to the locked items, and those that have none then.

    Returns what became of each that the viewer was linked to, by its id, and the keys of objects
    to delete after the commit.
    """
    locked = {item.id: item for item in items}
    own = delete(shared.link).where(shared.linked_id.in_(locked), shared.link.user_id == viewer.id)
    left = set(await unit.session.scalars(own.returning(shared.linked_id)))
    still = select(shared.linked_id).where(shared.linked_id.in_(left)).distinct()
    gone = left - set(await unit.session.scalars(still))
    for item_id in left:
        unit.wake(shared.topic, item_id, viewer.id)
    keys = await shared.remove(unit, [locked[item_id] for item_id in gone])
    return {item_id: Removal(item_id, item_id in gone) for item_id in left}, keys
