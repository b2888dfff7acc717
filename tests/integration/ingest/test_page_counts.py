"""A page count whose child is killed: tried again, and left open in the end."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from app.backends import Backends, open_backends
from app.db import ledger
from app.db.ledger import Lease
from app.db.models import Document
from app.domain import JobKind, JobState
from app.ingest.pdf import count_pages
from app.services.documents.page_counts import PageCounts
from app.settings import Settings
from tests.support.children import kill_a_child
from tests.support.pdfs import make_pdf

KEY = "documents/one.pdf"


@pytest.fixture
async def backends(settings: Settings) -> AsyncIterator[Backends]:
    """Backends whose storage holds a PDF of three pages, uncounted."""

    async def content() -> AsyncIterator[bytes]:
        yield make_pdf(3)

    async with open_backends(settings) as backends:
        await backends.storage.store_file(KEY, content())
        async with backends.sessions.begin() as session:
            document = Document(
                course_id=uuid4(),
                filename="one.pdf",
                storage_key=KEY,
                checksum="0" * 64,
                mime_type="application/pdf",
                size_bytes=len(make_pdf(3)),
            )
            session.add(document)
            await session.flush()
            await ledger.open_job(session, JobKind.COUNT_PAGES, document.id, None)
        yield backends


async def claim(backends: Backends) -> Lease:
    async with backends.sessions.begin() as session:
        await session.execute(text("UPDATE jobs SET run_at = now()"))
    async with backends.sessions.begin() as session:
        (lease,) = await ledger.claim(session, [JobKind.COUNT_PAGES], 1)
    return lease


async def pages_of(backends: Backends, document_id: UUID) -> int | None:
    async with backends.sessions() as session:
        return (await session.get_one(Document, document_id)).page_count


async def test_a_count_whose_child_was_killed_is_made_again(backends: Backends) -> None:
    counts = PageCounts(backends.work, backends.storage, backends.scratch, count_pages)
    lease = await claim(backends)
    running = asyncio.create_task(counts.run(lease))
    await kill_a_child()
    assert await running == "retried"
    assert await pages_of(backends, lease.subject_id) is None
    assert await counts.run(await claim(backends)) == JobState.DONE
    assert await pages_of(backends, lease.subject_id) == 3


async def test_a_pdf_whose_children_are_always_killed_stays_uncounted(backends: Backends) -> None:
    counts = PageCounts(backends.work, backends.storage, backends.scratch, count_pages)
    outcomes = []
    for _ in range(5):
        lease = await claim(backends)
        running = asyncio.create_task(counts.run(lease))
        await kill_a_child()
        outcomes.append(await running)
    assert outcomes == ["retried"] * 4 + [JobState.DONE]
    assert await pages_of(backends, lease.subject_id) is None
