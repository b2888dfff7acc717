"""Changing collections: making, naming, filling and ordering them.

Who changes what is in collections holds their rows, in the order of their ids; before them, as a
rule, the row of the lecture or document that comes or goes, and behind them the links.  So
positions stay 0 to n - 1, nobody waits for each other in a ring, and what is being unlinked cannot
be added.
"""

from collections.abc import Collection as Ids
from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import ColumnElement, case, delete, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute, aliased

from app.auth.viewer import Viewer
from app.db.models import Collection, CollectionItem, Document, Lecture, UserDocument
from app.domain import FieldErrorCode
from app.errors import InvalidInput, NotFound
from app.services.collections.read import count_collections
from app.services.kernel.naming import checked
from app.services.kernel.unit_of_work import Work
from app.services.kernel.users import lock_user
from app.services.lectures.read import linked, real_id

MAX_COLLECTIONS = 500
MAX_ITEMS = 1000


async def create_collection(
    work: Work, viewer: Viewer, name: str, description: str | None
) -> Collection:
    """Make a collection of the viewer's; `InvalidInput` beyond `MAX_COLLECTIONS`."""
    texts = checked({"name": name, "description": description})
    async with work.begin() as unit:
        await lock_user(unit.session, viewer)
        if await count_collections(unit.session, viewer) >= MAX_COLLECTIONS:
            message = f"You have {MAX_COLLECTIONS} collections, and may have no more."
            raise InvalidInput.at("name", message, FieldErrorCode.QUOTA)
        collection = Collection(user_id=viewer.id, **texts)
        unit.session.add(collection)
        await unit.session.flush()
        await unit.session.refresh(collection)
        return collection


async def update_collection(
    work: Work, viewer: Viewer, collection_id: UUID, given: Mapping[str, str | None]
) -> Collection:
    """Change what is given of ``name`` and ``description`` (`naming.checked`), or `NotFound`."""
    texts = checked(given)
    async with work.begin() as unit:
        collection = await _locked(unit.session, viewer, collection_id)
        for field, text in texts.items():
            setattr(collection, field, text)
        await unit.session.flush()
        await unit.session.refresh(collection)
        return collection


async def delete_collection(work: Work, viewer: Viewer, collection_id: UUID) -> UUID:
    """Delete the collection, and nothing that is in it; `NotFound` unless it is the viewer's."""
    async with work.begin() as unit:
        collection = await _locked(unit.session, viewer, collection_id)
        await unit.session.delete(collection)
    return collection_id


async def add_to_collection(
    work: Work, viewer: Viewer, collection_id: UUID, subject_id: UUID, position: int | None
) -> Collection:
    """Bring the lecture or document to the position, whether it is in the collection or not.

    What stood there and behind it moves on; None, or beyond the end, is the last.  `NotFound`
    unless the collection is the viewer's and the viewer is linked to the subject.
    """
    if position is not None and position < 0:
        message = "A position is 0 or more."
        raise InvalidInput.at("position", message, FieldErrorCode.MALFORMED)
    async with work.begin() as unit:
        subject = await _kept_subject(unit.session, viewer, subject_id)
        collection = await _locked(unit.session, viewer, collection_id)
        # Looked at again: a request unlinks what has failed without a lock of its row.
        await _kept_subject(unit.session, viewer, subject_id)
        of_this = CollectionItem.collection_id == collection.id
        query = select(func.count()).select_from(CollectionItem).where(of_this)
        count = await unit.session.scalar(query) or 0
        query_item = select(CollectionItem).where(of_this).filter_by(**subject)
        item = await unit.session.scalar(query_item)
        if item is None:
            if count >= MAX_ITEMS:
                message = f"The collection has {MAX_ITEMS} items, and may have no more."
                raise InvalidInput.at("subjectId", message, FieldErrorCode.TOO_MANY)
            item = CollectionItem(collection_id=collection.id, position=count, **subject)
            unit.session.add(item)
            await unit.session.flush()
            count += 1
        last = count - 1
        await _move(unit.session, item, last if position is None else min(position, last))
        return collection


async def remove_from_collection(
    work: Work, viewer: Viewer, collection_id: UUID, subject_id: UUID
) -> Collection:
    """Take the lecture or document out; `NotFound` unless it is in a collection of the viewer's."""
    async with work.begin() as unit:
        collection = await _locked(unit.session, viewer, collection_id)
        gone = delete(CollectionItem).where(
            CollectionItem.collection_id == collection.id,
            or_(
                CollectionItem.lecture_id == real_id(subject_id),
                CollectionItem.document_id == subject_id,
            ),
        )
        if await unit.session.scalar(gone.returning(CollectionItem.id)) is None:
            raise NotFound("item of the collection", subject_id)
        await _close_gaps(unit.session, [collection.id])
        return collection


async def leave_collections(
    session: AsyncSession,
    subject: InstrumentedAttribute[UUID | None],
    ids: Ids[UUID],
    viewer: Viewer | None = None,
) -> None:
    """Take lectures or documents out of the viewer's collections, or locked ones out of everyone's.

    ``subject`` is the column of `CollectionItem` that names them.  All of the viewer's collections
    are locked then, so that nothing is added to them until the links are gone.
    """
    held = exists().where(CollectionItem.collection_id == Collection.id, subject.in_(ids))
    which = held if viewer is None else Collection.user_id == viewer.id
    collections = await _lock_all(session, which)
    if collections:
        of_these = CollectionItem.collection_id.in_(collections)
        await session.execute(delete(CollectionItem).where(of_these, subject.in_(ids)))
        await _close_gaps(session, collections)


async def take_place(session: AsyncSession, survivor: UUID, loser: UUID) -> None:
    """Put the one of two locked lectures that are merged into the places of the other.

    A collection that has both keeps the survivor where it stands.
    """
    lecture_id = CollectionItem.lecture_id
    held = exists().where(CollectionItem.collection_id == Collection.id, lecture_id == loser)
    collections = await _lock_all(session, held)
    if not collections:
        return
    other = aliased(CollectionItem)
    twice = exists().where(
        other.collection_id == CollectionItem.collection_id, other.lecture_id == survivor
    )
    await session.execute(delete(CollectionItem).where(lecture_id == loser, twice))
    moved = update(CollectionItem).where(lecture_id == loser).values(lecture_id=survivor)
    await session.execute(moved)
    await _close_gaps(session, collections)


async def _kept_subject(session: AsyncSession, viewer: Viewer, subject_id: UUID) -> dict[str, UUID]:
    """Return the column and id of what the viewer is linked to, kept from being unlinked."""
    lecture = select(Lecture.id).where(Lecture.id == real_id(subject_id), linked(viewer))
    lecture = lecture.with_for_update(read=True, key_share=True)
    # Twice: a lecture that is merged away while this waits for its lock goes by another id now.
    found = await session.scalar(lecture) or await session.scalar(lecture)
    if found is not None:
        return {"lecture_id": found}
    own = exists().where(UserDocument.document_id == Document.id, UserDocument.user_id == viewer.id)
    document = select(Document.id).where(Document.id == subject_id, own)
    found = await session.scalar(document.with_for_update(read=True, key_share=True))
    if found is None:
        raise NotFound("lecture or document", subject_id)
    return {"document_id": found}


async def _locked(session: AsyncSession, viewer: Viewer, collection_id: UUID) -> Collection:
    query = select(Collection).where(
        Collection.id == collection_id, Collection.user_id == viewer.id
    )
    collection = await session.scalar(query.with_for_update())
    if collection is None:
        raise NotFound("collection", collection_id)
    return collection


async def _lock_all(session: AsyncSession, which: ColumnElement[bool]) -> list[UUID]:
    query = select(Collection.id).where(which).order_by(Collection.id)
    return list(await session.scalars(query.with_for_update()))


async def _move(session: AsyncSession, item: CollectionItem, to: int) -> None:
    """Bring the item to the position; what lies between moves by one the other way."""
    position, at = CollectionItem.position, item.position
    if to == at:
        return
    between = position.between(min(at, to), max(at, to))
    others = position + 1 if to < at else position - 1
    place = case((CollectionItem.id == item.id, to), else_=others)
    moved = update(CollectionItem).where(
        CollectionItem.collection_id == item.collection_id, between
    )
    await session.execute(moved.values(position=place))


async def _close_gaps(session: AsyncSession, collections: Ids[UUID]) -> None:
    item = aliased(CollectionItem)
    order = func.row_number().over(partition_by=item.collection_id, order_by=item.position)
    numbered = select(item.id, (order - 1).label("position"))
    dense = numbered.where(item.collection_id.in_(collections)).subquery()
    moved = update(CollectionItem).where(
        CollectionItem.id == dense.c.id, CollectionItem.position != dense.c.position
    )
    await session.execute(moved.values(position=dense.c.position))
