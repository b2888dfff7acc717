"""Users: a row appears the first time that one is needed."""

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.viewer import Viewer
from app.db.models import User


async def ensure_user(session: AsyncSession, viewer: Viewer) -> None:
    """Make the viewer's row unless it is there; any number may do so at once."""
    values = {"id": viewer.id, "issuer": viewer.issuer, "subject": viewer.subject}
    await session.execute(insert(User).values(values).on_conflict_do_nothing())


async def lock_user(session: AsyncSession, viewer: Viewer) -> None:
    """Make the viewer's row unless it is there, and lock it: what is counted of theirs stays so."""
    await ensure_user(session, viewer)
    query = select(User.id).where(User.id == viewer.id)
    await session.execute(query.with_for_update(key_share=True))
