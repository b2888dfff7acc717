"""Reading collections: whose they are reads them, and nobody else."""

from collections.abc import Collection as Ids
from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import Select, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.auth.viewer import Viewer
from app.db.models import Collection, CollectionItem
from app.services.kernel.keyset import NewestFirst, Page, read_page


def held_in(
    viewer: Viewer, collection_id: UUID, item: InstrumentedAttribute[UUID | None]
) -> Select[UUID | None]:
    """Select the lectures, or the documents, of the viewer's collection."""
    query = select(item).join(Collection, Collection.id == CollectionItem.collection_id)
    return query.where(
        Collection.id == collection_id, Collection.user_id == viewer.id, item.is_not(None)
    )


async def get_collection(
    session: AsyncSession, viewer: Viewer, collection_id: UUID
) -> Collection | None:
    """Return the collection, or None unless it is the viewer's."""
    return (await get_collections(session, viewer, [collection_id])).get(collection_id)


async def get_collections(
    session: AsyncSession, viewer: Viewer, ids: Ids[UUID]
) -> dict[UUID, Collection]:
    """Return those of the collections that are the viewer's, by id."""
    query = select(Collection).where(Collection.id.in_(ids), Collection.user_id == viewer.id)
    return {row.id: row for row in await session.scalars(query)}


async def list_collections(
    session: AsyncSession, viewer: Viewer, first: int | None, after: str | None
) -> Page[Collection]:
    """Return a page of the viewer's collections, newest first."""
    query = select(Collection).where(Collection.user_id == viewer.id)
    order = NewestFirst(Collection.created_at, Collection.id)
    return await read_page(session, query, order, lambda row: row[0], first, after)


async def count_collections(session: AsyncSession, viewer: Viewer) -> int:
    """Count the viewer's collections."""
    query = select(func.count()).select_from(Collection).where(Collection.user_id == viewer.id)
    return await session.scalar(query) or 0


async def items_of(
    session: AsyncSession, pages: Ids[tuple[UUID, int, int]]
) -> Mapping[tuple[UUID, int, int], Sequence[CollectionItem]]:
    """Return what is on each page, and what comes next: (collection, first position, size).

    Positions are dense, so that each page is a range of them, and one statement reads all.
    """
    collection, position = CollectionItem.collection_id, CollectionItem.position
    wanted = (
        and_(collection == id_, position.between(start, start + size))
        for id_, start, size in set(pages)
    )
    rows: dict[UUID, list[CollectionItem]] = {page[0]: [] for page in pages}
    for row in await session.scalars(select(CollectionItem).where(or_(*wanted)).order_by(position)):
        rows[row.collection_id].append(row)
    return {
        (id_, start, size): [row for row in rows[id_] if start <= row.position <= start + size]
        for id_, start, size in pages
    }


async def count_items(session: AsyncSession, ids: Ids[UUID]) -> Mapping[UUID, int]:
    """Count what is in each of the collections."""
    collection = CollectionItem.collection_id
    query = select(collection, func.count()).where(collection.in_(ids)).group_by(collection)
    return {row[0]: row[1] for row in await session.execute(query)}
