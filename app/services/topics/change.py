"""Changing topics: making, naming and deleting them."""

from collections.abc import Mapping
from unicodedata import normalize
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError

from app.auth.viewer import Viewer
from app.db.models import Topic
from app.domain import FieldErrorCode
from app.errors import Conflict, InvalidInput, NotFound
from app.services.kernel.jobs import open_topic_job
from app.services.kernel.naming import checked
from app.services.kernel.unit_of_work import UnitOfWork, Work
from app.services.kernel.users import lock_user
from app.services.topics.read import count_topics

MAX_TOPICS = 500


async def create_topic(work: Work, viewer: Viewer, name: str, description: str | None) -> Topic:
    """Make a topic of the viewer's.

    `Conflict` where there is one of that name, `InvalidInput` beyond `MAX_TOPICS`.
    """
    texts = checked({"name": name, "description": description})
    async with work.begin() as unit:
        await lock_user(unit.session, viewer)
        if await count_topics(unit.session, viewer) >= MAX_TOPICS:
            message = f"You have {MAX_TOPICS} topics, and may have no more."
            raise InvalidInput.at("name", message, FieldErrorCode.QUOTA)
        topic = Topic(user_id=viewer.id)
        unit.session.add(topic)
        return await _written(unit, topic, texts)


async def update_topic(
    work: Work, viewer: Viewer, topic_id: UUID, given: Mapping[str, str | None]
) -> Topic:
    """Change what is given of ``name`` and ``description`` (`naming.checked`).

    `NotFound` unless the topic is the viewer's, `Conflict` where there is another of that name.
    """
    texts = checked(given)
    async with work.begin() as unit:
        await lock_user(unit.session, viewer)
        query = select(Topic).where(Topic.id == topic_id, Topic.user_id == viewer.id)
        topic = await unit.session.scalar(query.with_for_update())
        if topic is None:
            raise NotFound("topic", topic_id)
        return await _written(unit, topic, texts)


async def delete_topic(work: Work, viewer: Viewer, topic_id: UUID) -> UUID:
    """Delete the topic, and what it was assigned to with it; `NotFound` unless it is one's own."""
    async with work.begin() as unit:
        gone = delete(Topic).where(Topic.id == topic_id, Topic.user_id == viewer.id)
        if await unit.session.scalar(gone.returning(Topic.id)) is None:
            raise NotFound("topic", topic_id)
    return topic_id


async def judge_what_came(unit: UnitOfWork, viewer: Viewer) -> None:
    """Have the viewer's topics judged once more: a lecture has come that may be indexed already."""
    if await count_topics(unit.session, viewer):
        await open_topic_job(unit, viewer.id, viewer.id)


def folded(name: str) -> str:
    """Return the name as those that differ by case alone have it (Unicode 3.13, D145)."""
    return normalize("NFD", normalize("NFD", name).casefold())


async def _written(unit: UnitOfWork, topic: Topic, texts: Mapping[str, str | None]) -> Topic:
    """Write the texts into the topic, and have the user's topics judged where that changes it.

    The caller holds the user's row: a job that is ending sees the change, or is seen to have ended.
    """
    session = unit.session
    for field, text in texts.items():
        setattr(topic, field, text)
    topic.folded_name = folded(topic.name)
    is_changed = session.is_modified(topic)
    if is_changed:
        topic.embedding = topic.embedding_model = None
    try:
        await session.flush()
    except IntegrityError as error:
        if "uq_topics_user_id_folded_name" not in str(error.orig):
            raise
        raise Conflict("You have a topic of this name.") from None
    if is_changed:
        await open_topic_job(unit, topic.user_id, topic.user_id)
    await session.refresh(topic)
    return topic
