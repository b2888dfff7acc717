"""One worker's part of a download, against a storage that can be held up in the middle of it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text, update

from app.auth.viewer import Viewer
from app.backends import Backends, open_backends
from app.db import ledger
from app.db.ledger import Lease
from app.db.models import Lecture
from app.domain import JobKind, JobState, LectureFailure, LectureStatus
from app.embedded.panopto import PanoptoSimulator, Recording
from app.errors import LeaseLost, StorageError
from app.ingest.extract import PyAvAudioExtractor
from app.ingest.fetch.downloader import MediaDownloader
from app.ingest.pipeline import AudioPipeline
from app.services.lectures import attempt_files
from app.services.lectures.download import RETRIED, LectureDownloads
from app.services.lectures.request import cancel_download
from app.services.transcripts.arrival import Arrival
from app.settings import Settings
from app.storage.local import LocalStorage
from app.storage.memory import MemoryStorage
from app.storage.protocol import StoredFileMeta
from tests.support.panopto import files_in
from tests.support.wait import wait_until

DOWNLOAD = JobKind.DOWNLOAD_LECTURE
OPERATOR = Viewer(uuid4(), "issuer", "operator", is_admin=True, expires_at=0)


@dataclass
class Gate:
    """Where a call waits until it is let through."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def pass_through(self) -> None:
        self.reached.set()
        await self.opened.wait()


class Bucket(MemoryStorage):
    """A storage of another machine; what is written to it may have to wait at a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.storing: Gate | None = None
        self.moving: Gate | None = None
        self.moved: Gate | None = None
        self.keeps_what_is_moved = False

    async def store_file(self, key: str, chunks: AsyncIterator[bytes]) -> StoredFileMeta:
        if self.storing:
            await self.storing.pass_through()
        return await super().store_file(key, chunks)

    async def move_file(self, key: str, new_key: str) -> None:
        if self.moving:
            await self.moving.pass_through()
        if self.keeps_what_is_moved:
            async with self.open_file(key) as opened:
                await super().store_file(new_key, opened.chunks)
            raise StorageError("The file could not be stored.")
        await super().move_file(key, new_key)
        if self.moved:
            await self.moved.pass_through()

    async def keys(self) -> set[str]:
        return {found.key async for found in self.list_files()}


@dataclass
class Scene:
    """A lecture that waits, and what a worker needs to download it into the bucket."""

    backends: Backends
    bucket: Bucket
    scratch: LocalStorage
    downloads: LectureDownloads
    lecture_id: UUID

    async def claim(self) -> Lease:
        """Claim the download, whoever holds it."""
        async with self.backends.sessions.begin() as session:
            _, held = await ledger.look(session)
            await ledger.end_leases(session, [each.holder for each in held if each.holder])
            (lease,) = await ledger.claim(session, [DOWNLOAD], 1, holder="somebody")
        return lease

    async def lecture(self) -> Lecture:
        async with self.backends.sessions() as session:
            return (await session.scalars(select(Lecture))).one()

    async def change(self, **values: Any) -> None:
        async with self.backends.sessions.begin() as session:
            await session.execute(update(Lecture).values(**values))

    async def end_idle_transactions(self) -> None:
        """End them, as the server does with what it takes for a stopped worker's."""
        async with self.backends.sessions.begin() as session:
            idle = "datname = current_database() AND state = 'idle in transaction'"
            await session.execute(
                text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {idle}")
            )

    @property
    def audio_key(self) -> str:
        return f"audio/{self.lecture_id}.m4a"


@pytest.fixture
async def scene(
    settings: Settings,
    simulator: PanoptoSimulator,
    recording: Recording,
    downloader: MediaDownloader,
    scratch: LocalStorage,
) -> AsyncIterator[Scene]:
    pipeline = AudioPipeline(downloader, PyAvAudioExtractor(), 60)
    bucket = Bucket()
    async with open_backends(settings) as backends:
        arrival = Arrival(bucket, None)
        downloads = LectureDownloads(backends.work, bucket, scratch, pipeline, arrival, 60)
        async with backends.sessions.begin() as session:
            url = simulator.viewer_url(recording)
            lecture = Lecture(course_id=uuid4(), panopto_url=url, canonical_url=url)
            session.add(lecture)
            await session.flush()
            await ledger.open_job(session, DOWNLOAD, lecture.id, uuid4())
        yield Scene(backends, bucket, scratch, downloads, lecture.id)


async def test_a_cancel_need_not_wait_for_the_upload(scene: Scene) -> None:
    scene.bucket.storing = Gate()
    lease = await scene.claim()
    running = asyncio.create_task(scene.downloads.run(lease))
    await scene.bucket.storing.reached.wait()
    work = scene.backends.work
    cancelled = await asyncio.wait_for(
        cancel_download(work, scene.bucket, scene.scratch, OPERATOR, scene.lecture_id), 3
    )
    assert cancelled.failure is LectureFailure.CANCELLED
    scene.bucket.storing.opened.set()
    with pytest.raises(LeaseLost):
        await running
    await scene.downloads.forget(lease)
    assert await scene.bucket.keys() == set()
    assert await files_in(scene.scratch) == []


async def test_a_database_that_goes_while_the_audio_is_put_costs_no_attempt(scene: Scene) -> None:
    scene.bucket.moving = moving = Gate()
    running = asyncio.create_task(scene.downloads.run(await scene.claim()))
    await moving.reached.wait()
    scene.bucket.moving = None
    await scene.end_idle_transactions()
    assert await running == JobState.DONE
    lecture = await scene.lecture()
    assert (lecture.status, lecture.attempt) == (LectureStatus.COMPLETED, 1)
    assert await scene.bucket.keys() == {scene.audio_key}
    assert await files_in(scene.scratch) == []


async def test_who_lost_its_transaction_replaces_nothing(scene: Scene) -> None:
    scene.bucket.moving = moving = Gate()
    lease = await scene.claim()
    running = asyncio.create_task(scene.downloads.run(lease))
    await moving.reached.wait()
    scene.bucket.moving = None
    await scene.end_idle_transactions()
    successor = await scene.claim()
    assert await scene.downloads.run(successor) == JobState.DONE
    put = await scene.bucket.stat_file(scene.audio_key)
    with pytest.raises(LeaseLost):
        await running
    await scene.downloads.forget(lease)
    assert await scene.bucket.stat_file(scene.audio_key) == put
    assert await scene.bucket.keys() == {scene.audio_key}
    assert await files_in(scene.scratch) == []
    assert (await scene.lecture()).attempt == 2


async def test_a_fault_after_a_crash_leaves_nothing(scene: Scene) -> None:
    await scene.change(attempt=2)
    await _write(scene.scratch, f"audio/{scene.lecture_id}_source.2.aaaaaaaa.part")
    await _write(scene.scratch, f"audio/{scene.lecture_id}_source.1.bbbbbbbb.mp4")
    await _write(scene.scratch, *attempt_files.kept_keys(scene.lecture_id))
    await _write(scene.bucket, scene.audio_key)
    await _write(scene.bucket, f"audio/{scene.lecture_id}_source.2.aaaaaaaa.m4a")
    first = await scene.claim()
    lease = await scene.claim()
    assert (lease.subject_id, lease.crashes) == (first.subject_id, 1)
    await scene.downloads.abandon(lease)
    assert (await scene.lecture()).failure is LectureFailure.INTERNAL
    assert await files_in(scene.scratch) == []
    assert await scene.bucket.keys() == set()


async def test_what_a_killed_attempt_has_brought_to_the_bucket_goes(scene: Scene) -> None:
    await scene.change(attempt=1)
    await _write(scene.bucket, f"audio/{scene.lecture_id}_source.1.aaaaaaaa.m4a")
    await scene.claim()
    assert await scene.downloads.run(await scene.claim()) == JobState.DONE
    assert await scene.bucket.keys() == {scene.audio_key}


async def test_a_killed_attempts_files_are_taken_but_never_a_successors(
    scratch: LocalStorage,
) -> None:
    lecture_id = uuid4()
    mine, successor = f"audio/{lecture_id}_source.2.bbbbbbbb", f"audio/{lecture_id}_source.3.cccc"
    theirs = {f"{successor}{suffix}" for suffix in (".part", ".note", ".mp4", ".m4a")}
    await _write(scratch, *theirs)
    for suffix in (".part", ".note", ".mp4"):
        await _write(scratch, f"audio/{lecture_id}_source.1.aaaaaaaa{suffix}")
    await attempt_files.take_from_killed(scratch, lecture_id, 2, mine)
    assert set(await files_in(scratch)) == theirs | {f"{mine}.part", f"{mine}.note"}


async def test_a_day_of_waiting_begins_when_the_source_is_asked(
    scene: Scene, recording: Recording
) -> None:
    """Not when the lecture was queued: the workers may have been away for long."""
    recording.faults.not_encoded_times = 10**6
    async with scene.backends.sessions.begin() as session:
        await session.execute(text("UPDATE jobs SET created_at = now() - interval '2 days'"))
    assert await scene.downloads.run(await scene.claim()) == RETRIED
    lecture = await scene.lecture()
    assert lecture.status is LectureStatus.PENDING
    assert lecture.next_attempt_at is not None
    await scene.change(started_at=lecture.started_at - timedelta(hours=24))
    async with scene.backends.sessions.begin() as session:
        await session.execute(text("UPDATE jobs SET run_at = now()"))
    assert await scene.downloads.run(await scene.claim()) == JobState.FAILED
    assert (await scene.lecture()).failure is LectureFailure.TIMEOUT


async def test_a_source_that_answers_well_forgives_earlier_trouble(
    scene: Scene, recording: Recording
) -> None:
    recording.faults.not_encoded_times = 10**6
    async with scene.backends.sessions.begin() as session:
        await session.execute(text("UPDATE jobs SET attempt = 4, crashes = 1"))
    assert await scene.downloads.run(await scene.claim()) == RETRIED
    async with scene.backends.sessions() as session:
        row = (await session.execute(text("SELECT attempt, crashes FROM jobs"))).one()
    assert tuple(row) == (0, 0)


async def test_a_first_attempt_killed_at_its_start_leaves_nothing(scene: Scene) -> None:
    """Killed before its number was written down, but after it took what had been kept."""
    for suffix in (".part", ".note"):
        await _write(scene.scratch, f"audio/{scene.lecture_id}_source.1.aaaaaaaa{suffix}")
    await scene.claim()
    assert await scene.downloads.run(await scene.claim()) == JobState.DONE
    assert await files_in(scene.scratch) == []


async def test_scratch_in_trouble_is_a_failed_attempt_and_no_crash(
    scene: Scene, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording.faults.media_status = 503
    lease = await scene.claim()
    running = asyncio.create_task(scene.downloads.run(lease))
    await wait_until(lambda: _status_is(scene, LectureStatus.DOWNLOADING), "it has begun")

    def broken(key: str) -> Path:
        raise StorageError("The file could not be stored.")

    monkeypatch.setattr(scene.scratch, "path_of", broken)
    assert await running == RETRIED
    async with scene.backends.sessions() as session:
        row = (await session.execute(text("SELECT state, attempt, crashes FROM jobs"))).one()
    assert tuple(row) == ("queued", 1, 0)


async def _status_is(scene: Scene, status: LectureStatus) -> bool:
    return (await scene.lecture()).status is status


async def test_a_move_that_fails_half_way_leaves_nothing_at_the_end(scene: Scene) -> None:
    scene.bucket.keeps_what_is_moved = True
    async with scene.backends.sessions.begin() as session:
        await session.execute(text("UPDATE jobs SET attempt = 4"))
    assert await scene.downloads.run(await scene.claim()) == JobState.FAILED
    assert await scene.bucket.keys() == set()
    assert await files_in(scene.scratch) == []


async def test_what_is_handed_back_after_the_move_leaves_nothing(scene: Scene) -> None:
    scene.bucket.moved = Gate()
    lease = await scene.claim()
    running = asyncio.create_task(scene.downloads.run(lease))
    await scene.bucket.moved.reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await scene.downloads.hand_back(lease)
    assert await scene.bucket.keys() == set()
    lecture = await scene.lecture()
    assert (lecture.status, lecture.attempt) == (LectureStatus.PENDING, 0)


async def _write(storage: LocalStorage | MemoryStorage, *keys: str) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield b"x"

    for key in keys:
        await storage.store_file(key, content())


async def _nothing_left(scene: Scene) -> bool:
    return not await scene.bucket.keys() and not await files_in(scene.scratch)


async def test_what_waits_for_the_next_attempt_goes_with_the_lecture(scene: Scene) -> None:
    kept = attempt_files.kept_keys(scene.lecture_id)
    await _write(scene.scratch, *kept)
    work = scene.backends.work
    await cancel_download(work, scene.bucket, scene.scratch, OPERATOR, scene.lecture_id)
    await wait_until(lambda: _nothing_left(scene), "what was kept is gone", timeout_seconds=3)
