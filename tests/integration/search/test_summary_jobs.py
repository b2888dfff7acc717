"""A summary whose job was taken over, or whose subject is gone."""

from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import uuid4

import pytest
from sqlalchemy import func, text

from app.backends import Backends, open_backends
from app.db import ledger
from app.db.ledger import Lease
from app.db.models import Document, DocumentPage
from app.domain import JobKind, JobState
from app.errors import LeaseLost
from app.jobs.lanes import lanes_of
from app.llm.client import LanguageModel
from app.services.search.summarize import Summaries
from app.settings import Settings, load_settings
from app.worker import make_handlers
from tests.support.language_model import KEY, NAME, LanguageServer, language_server

PAGES = ("Plants turn light into sugar.", "Water rises from the roots.")


@pytest.fixture
async def server() -> AsyncIterator[LanguageServer]:
    async with language_server() as server:
        yield server


@pytest.fixture
async def backends(settings: Settings) -> AsyncIterator[Backends]:
    """Backends whose database holds a document with text on two pages, to be summed up."""
    async with open_backends(settings) as backends:
        async with backends.sessions.begin() as session:
            document = Document(
                course_id=uuid4(),
                filename="one.pdf",
                storage_key="documents/one.pdf",
                checksum="0" * 64,
                mime_type="application/pdf",
                size_bytes=1,
            )
            session.add(document)
            await session.flush()
            for page, words in enumerate(PAGES, start=1):
                row = DocumentPage(document_id=document.id, page=page, chunk_index=0, text=words)
                row.search = func.to_tsvector("english", words)
                session.add(row)
            await ledger.open_job(session, JobKind.SUMMARIZE, document.id, None)
        yield backends


def summaries(backends: Backends, server: LanguageServer) -> Summaries:
    return Summaries(backends.work, LanguageModel(server.url, NAME, KEY, 30), 60_000)


async def claim(backends: Backends) -> Lease:
    async with backends.sessions.begin() as session:
        (lease,) = await ledger.claim(session, [JobKind.SUMMARIZE], 1)
    return lease


async def document_of(backends: Backends, lease: Lease) -> Document:
    async with backends.sessions() as session:
        return await session.get_one(Document, lease.subject_id)


async def test_what_is_kept_names_who_has_written_it(
    backends: Backends, server: LanguageServer
) -> None:
    lease = await claim(backends)
    assert await summaries(backends, server).run(lease) == JobState.DONE
    document = await document_of(backends, lease)
    assert document.description == " + ".join(PAGES)
    assert document.description_by == f"{NAME}, prompts 1"
    assert document.revision == 2


def change(backends: Backends, statement: str) -> Callable[[], Awaitable[None]]:
    """Return what runs the statement."""

    async def run() -> None:
        async with backends.sessions.begin() as session:
            await session.execute(text(statement))

    return run


async def test_a_job_that_is_taken_over_while_the_model_writes_changes_nothing(
    backends: Backends, server: LanguageServer
) -> None:
    lease = await claim(backends)
    server.meanwhile = change(backends, "UPDATE jobs SET lease_token = gen_random_uuid()")
    with pytest.raises(LeaseLost):
        await summaries(backends, server).run(lease)
    document = await document_of(backends, lease)
    assert (document.description, document.description_source) == (None, None)
    assert document.revision == 1


async def test_a_subject_that_is_gone_is_asked_of_nobody(
    backends: Backends, server: LanguageServer
) -> None:
    lease = await claim(backends)
    async with backends.sessions.begin() as session:
        await session.execute(text("DELETE FROM documents"))
    assert await summaries(backends, server).run(lease) == JobState.DONE
    assert server.asked == []


async def test_a_subject_that_goes_while_the_model_writes_ends_the_job(
    backends: Backends, server: LanguageServer
) -> None:
    lease = await claim(backends)
    server.meanwhile = change(backends, "DELETE FROM documents")
    assert await summaries(backends, server).run(lease) == JobState.DONE
    assert len(server.asked) == 1


async def test_only_a_worker_with_a_language_model_claims_summaries(
    backends: Backends, settings: Settings
) -> None:
    def slots(of: Settings) -> int:
        lanes = lanes_of(make_handlers(backends), of, can_transcribe=False)
        (lane,) = [each for each in lanes if any(isinstance(h, Summaries) for h in each.handlers)]
        return lane.count

    assert slots(settings) == 0
    changed = {"llm_base_url": "http://127.0.0.1:1/v1", "llm_model": NAME}
    assert slots(load_settings(**(settings.model_dump(exclude_unset=True) | changed))) == 1
