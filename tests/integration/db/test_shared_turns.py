"""A lecture that several users ask for takes the best of their turns, through the service."""

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, update

from app.auth.viewer import Viewer
from app.backends import Backends, open_backends
from app.db import ledger
from app.db.models import Job, Lecture
from app.domain import JobKind
from app.services.kernel.quotas import Allowance
from app.services.lectures.request import DownloadRequest, request_download
from app.services.transcripts.request import (
    TranscriptionRequest,
    add,
    enqueue,
    request_transcription,
)
from app.settings import Settings
from app.speech.transcriber import SpeechModel
from tests.support.rows import add_lecture, add_user

DOWNLOAD = JobKind.DOWNLOAD_LECTURE
COURSE = uuid4()


@pytest.fixture
async def backends(settings: Settings) -> AsyncIterator[Backends]:
    async with open_backends(settings) as backends:
        yield backends


def viewer(name: str) -> Viewer:
    return Viewer(uuid4(), "issuer", name, is_admin=False, expires_at=0)


async def ask(backends: Backends, viewer: Viewer, number: int) -> UUID:
    request = DownloadRequest(COURSE, f"https://media.example.org/{number}.mp4")
    allowance = Allowance(backends.requests, viewer.id, None)
    requested = await request_download(backends.work, viewer, request, (), allowance)
    return requested.lecture.id


async def users_of(backends: Backends) -> dict[UUID, UUID]:
    async with backends.sessions() as session:
        return {job.subject_id: job.user_id for job in await session.scalars(select(Job))}


async def test_the_first_link_of_a_user_waits_behind_nobodys_backlog(backends: Backends) -> None:
    ann, bob = viewer("ann"), viewer("bob")
    lectures = [await ask(backends, ann, number) for number in range(20)]
    assert await ask(backends, bob, 19) == lectures[19]
    assert await users_of(backends) == dict.fromkeys(lectures[:19], ann.id) | {lectures[19]: bob.id}
    async with backends.sessions.begin() as session:
        claimed = await ledger.claim(session, [DOWNLOAD], 2)
    assert {lease.subject_id for lease in claimed} == {lectures[0], lectures[19]}


async def test_a_second_link_waits_as_it_did(backends: Backends) -> None:
    ann, bob = viewer("ann"), viewer("bob")
    shared = await ask(backends, ann, 1)
    own = await ask(backends, bob, 2)
    assert await ask(backends, bob, 1) == shared
    assert await users_of(backends) == {shared: ann.id, own: bob.id}


async def test_what_a_user_asks_for_is_heard_before_nobodys_backlog(backends: Backends) -> None:
    """AUTO_TRANSCRIBE has queued it already, behind others."""
    ann = await add_user(backends.sessions)
    lecture_id = await add_lecture(backends.sessions, ann)
    model = SpeechModel("base", "1", ())
    async with backends.work.begin() as unit:
        await unit.session.execute(
            update(Lecture).where(Lecture.id == lecture_id).values(audio_storage_key="audio/a.m4a")
        )
        row = add(unit.session, lecture_id, None, model, None)
        await unit.session.flush()
        await enqueue(unit, row, None)
        row_id = row.id
    request = TranscriptionRequest(lecture_id, "base")
    allowance = Allowance(backends.requests, ann.id, None)
    asked = await request_transcription(
        backends.work, backends.transcriber, ann, request, allowance
    )
    assert (asked.transcription.id, asked.created) == (row_id, False)
    assert await users_of(backends) == {row_id: ann.id}
