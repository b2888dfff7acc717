"""A document whose object was lost gets it back with the next upload of its bytes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text, update

from app.auth.viewer import Viewer
from app.backends import Backends, open_backends
from app.db.models import Document, Job
from app.domain import JobKind
from app.errors import StorageError
from app.services.documents.remove import delete_document, unlink_documents
from app.services.documents.upload import UploadedDocument, upload_document
from app.services.kernel.quotas import Allowance
from app.settings import Settings
from app.storage.memory import MemoryStorage
from app.storage.protocol import ObjectInfo
from tests.support.wait import wait_until

CONTENT = b"%PDF-1.7 the very bytes"
Step = Callable[[], Awaitable[object]]


class Watched(MemoryStorage):
    """Counts how often it is asked, does something before an answer, or fails at a word."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.before: dict[str, Step] = {}
        self.failing: set[str] = set()

    async def stat_file(self, key: str) -> ObjectInfo:
        await self._note("stat")
        return await super().stat_file(key)

    async def move_file(self, key: str, new_key: str) -> None:
        await self._note("move")
        await super().move_file(key, new_key)

    async def keys(self) -> set[str]:
        return {found.key async for found in self.list_files()}

    async def _note(self, call: str) -> None:
        self.asked.append(call)
        if call in self.failing:
            raise StorageError("The store refuses.")
        if step := self.before.pop(call, None):
            await step()


@dataclass
class Pdf:
    filename: str = "a.pdf"
    content_type: str = "application/pdf"

    @property
    def chunks(self) -> AsyncIterator[bytes]:
        return _chunks(CONTENT)


@dataclass
class Desk:
    """Where users bring their PDFs."""

    backends: Backends
    storage: Watched = field(default_factory=Watched)
    course: UUID = field(default_factory=uuid4)

    async def upload(self, viewer: Viewer) -> UploadedDocument:
        allowance = Allowance(self.backends.requests, viewer.id, None)
        work = self.backends.work
        return await upload_document(work, self.storage, viewer, self.course, Pdf(), allowance)

    async def lost(self, viewer: Viewer, content: bytes | None = None) -> Document:
        """Return a document whose object is gone, or was replaced."""
        document = (await self.upload(viewer)).document.document
        await self.storage.delete_file(document.storage_key)
        if content is not None:
            await self.storage.store_file(document.storage_key, _chunks(content))
        self.storage.asked.clear()
        return document

    async def holds(self, key: str) -> bool:
        async with self.storage.open_file(key) as opened:
            return b"".join([chunk async for chunk in opened.chunks]) == CONTENT

    async def rows(self) -> int:
        async with self.backends.sessions() as session:
            return await session.scalar(select(func.count()).select_from(Document)) or 0


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content


def viewer(*, is_admin: bool = False) -> Viewer:
    return Viewer(uuid4(), "issuer", str(uuid4()), is_admin, 0)


@pytest.fixture
async def desk(settings: Settings) -> AsyncIterator[Desk]:
    async with open_backends(settings) as backends:
        yield Desk(backends)
        await backends.work.drain()


@pytest.mark.parametrize("instead", [None, b"", b"%PDF-1.7 cut"])
async def test_the_bytes_become_the_object_again(desk: Desk, instead: bytes | None) -> None:
    lost = await desk.lost(viewer(), instead)
    again = await desk.upload(viewer())
    assert (again.created, again.document.document.id) == (False, lost.id)
    assert await desk.storage.keys() == {lost.storage_key}
    assert await desk.holds(lost.storage_key)


async def test_a_copy_costs_one_look_and_is_dropped(desk: Desk) -> None:
    first = await desk.upload(viewer())
    desk.storage.asked.clear()
    assert (await desk.upload(viewer())).created is False
    assert desk.storage.asked == ["stat"]
    assert await desk.storage.keys() == {first.document.document.storage_key}


async def test_the_pages_that_could_not_be_counted_are_counted(desk: Desk) -> None:
    lost = await desk.lost(viewer())
    async with desk.backends.sessions.begin() as session:
        await session.execute(update(Job).values(state="done", lease_token=None))
    await desk.upload(viewer())
    counting = select(Job.subject_id).where(Job.kind == JobKind.COUNT_PAGES, Job.state == "queued")
    async with desk.backends.sessions() as session:
        assert (await session.scalars(counting)).all() == [lost.id]


async def test_what_was_deleted_meanwhile_stays_deleted(desk: Desk) -> None:
    """An admin deletes the document after the link, and before the object is looked for."""
    lost = await desk.lost(viewer())
    admin, work, storage = viewer(is_admin=True), desk.backends.work, desk.storage
    storage.before["stat"] = lambda: delete_document(work, storage, admin, lost.id)
    await desk.upload(viewer())
    assert await storage.keys() == set()
    assert await desk.rows() == 0


async def test_the_last_to_leave_waits_until_the_object_is_back(desk: Desk) -> None:
    """They leave at the very moment of the move: the row's lock holds them, then both go."""
    owner = viewer()
    lost = await desk.lost(owner)
    work, storage = desk.backends.work, desk.storage
    leaving: list[asyncio.Task[object]] = []

    async def leave() -> None:
        leaving.append(asyncio.create_task(unlink_documents(work, storage, owner, [lost.id])))
        await wait_until(lambda: _is_waited_for(desk), "they wait", poll_seconds=0.02)

    storage.before["move"] = leave
    await desk.upload(owner)
    await asyncio.gather(*leaving)
    assert len(leaving) == 1
    assert await storage.keys() == set()
    assert await desk.rows() == 0


async def test_uploads_at_once_heal_once(desk: Desk) -> None:
    lost = await desk.lost(viewer())
    answers = await asyncio.gather(*(desk.upload(viewer()) for _ in range(10)))
    assert {answer.document.document.id for answer in answers} == {lost.id}
    assert desk.storage.asked.count("move") == 1
    assert await desk.storage.keys() == {lost.storage_key}
    assert await desk.holds(lost.storage_key)


async def test_a_store_that_cannot_tell_is_no_reason_to_refuse(desk: Desk) -> None:
    first = await desk.upload(viewer())
    desk.storage.failing = {"stat"}
    assert (await desk.upload(viewer())).created is False
    assert await desk.storage.keys() == {first.document.document.storage_key}


async def test_a_move_that_fails_is_told_and_leaves_nothing(desk: Desk) -> None:
    lost = await desk.lost(viewer())
    desk.storage.failing = {"move"}
    with pytest.raises(StorageError):
        await desk.upload(viewer())
    assert await desk.storage.keys() == set()
    desk.storage.failing.clear()
    await desk.upload(viewer())
    assert await desk.holds(lost.storage_key)


async def _is_waited_for(desk: Desk) -> bool:
    """Tell whether a statement of this database waits for a lock."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with desk.backends.sessions() as session:
        return bool(await session.scalar(query))
