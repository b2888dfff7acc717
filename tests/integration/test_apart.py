"""A job that workers may have died of, in a process of its own under the real worker."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import ledger
from app.db.models import Job, Lecture
from app.domain import JobKind, JobState, LectureFailure, LectureStatus
from app.embedded.panopto import PanoptoSimulator, Recording
from app.embedded.sample_media import make_lecture
from app.events.wakeups import Wakeup
from app.jobs.runner import JobRunner
from app.settings import Settings, load_settings
from app.worker import open_worker
from tests.wait import wait_until

Sessions = async_sessionmaker[AsyncSession]
DOWNLOAD = JobKind.DOWNLOAD_LECTURE
STARTS_WITHIN_SECONDS = 40


def processes() -> list[int]:
    """Return those that work on single jobs for this one."""
    return [pid for forker in forkers() for pid in _children_of(forker)]


def forkers() -> list[int]:
    """Return those that fork them."""
    return [
        pid
        for pid in _children_of(os.getpid())
        if b"app.job_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def _children_of(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    yield
    await nothing_is_left()
    assert forkers() == []


async def nothing_is_left() -> None:
    await wait_until(lambda: not processes(), "no process is left", timeout_seconds=3)


@pytest.fixture
async def simulator() -> AsyncIterator[PanoptoSimulator]:
    async with PanoptoSimulator() as simulator:
        yield simulator


@pytest.fixture
def recording(simulator: PanoptoSimulator, tmp_path: Path) -> Recording:
    media = make_lecture(tmp_path / "lecture.mp4", 5)
    return simulator.add(Recording(media, offers=("mp4",)))


@pytest.fixture
def settings(settings: Settings, simulator: PanoptoSimulator) -> Settings:
    """The test's settings, with the simulator among the hosts that may be asked."""
    return load_settings(
        **settings.model_dump(exclude_unset=True),
        panopto_hosts=(simulator.host_port,),
        fetch_allowed_private_hosts=(simulator.host_port,),
    )


@pytest.fixture
async def worker(settings: Settings) -> AsyncIterator[JobRunner]:
    """A running worker."""
    async with open_worker(settings) as runner:
        running = asyncio.create_task(runner.run())
        yield runner
        runner.stop()
        await running


async def request(sessions: Sessions, url: str, *, crashes: int) -> UUID:
    async with sessions.begin() as session:
        lecture = Lecture(course_id=uuid4(), panopto_url=url, canonical_url=url)
        session.add(lecture)
        await session.flush()
        await ledger.open_job(session, DOWNLOAD, lecture.id, uuid4())
        query = text("UPDATE jobs SET crashes = :crashes WHERE subject_id = :id")
        await session.execute(query, {"crashes": crashes, "id": lecture.id})
        return lecture.id


async def read(sessions: Sessions, lecture_id: UUID) -> tuple[Lecture, Job]:
    async with sessions() as session:
        lecture = (await session.scalars(select(Lecture).where(Lecture.id == lecture_id))).one()
        job = (await session.scalars(select(Job).where(Job.subject_id == lecture_id))).one()
        return lecture, job


async def until_ended(sessions: Sessions, lecture_id: UUID) -> tuple[Lecture, Job]:
    async def ended() -> tuple[Lecture, Job] | None:
        lecture, job = await read(sessions, lecture_id)
        over = lecture.status in {LectureStatus.COMPLETED, LectureStatus.FAILED}
        return (lecture, job) if over else None

    return await wait_until(ended, "it has ended", timeout_seconds=STARTS_WITHIN_SECONDS)


async def until_fetching(recording: Recording, simulator: PanoptoSimulator, times: int) -> int:
    """Return the process that fetches the recording for the so-manieth time."""

    def fetching() -> int | None:
        (pid, *_) = processes() or [None]
        return pid if len(simulator.media_requests(recording)) >= times else None

    return await wait_until(fetching, "it fetches", timeout_seconds=STARTS_WITHIN_SECONDS)


async def test_it_does_there_what_it_would_do_here(
    sessions: Sessions,
    worker: JobRunner,
    simulator: PanoptoSimulator,
    recording: Recording,
    settings: Settings,
) -> None:
    recording.faults.media_status = 503
    recording.faults.media_status_times = 1
    url = simulator.viewer_url(recording)
    shared = await request(sessions, url, crashes=2)
    gone = await request(sessions, f"{url}&gone", crashes=2)
    async with sessions.begin() as session:
        missing = text("UPDATE lectures SET panopto_url = :url WHERE id = :id")
        await session.execute(missing, {"url": "http://127.0.0.1:1/a.mp4", "id": gone})
    lecture, job = await until_ended(sessions, shared)
    assert (lecture.status, job.state) == (LectureStatus.COMPLETED, JobState.DONE)
    assert lecture.attempt > 1, "the trouble that passed was tried again"
    lecture, job = await until_ended(sessions, gone)
    assert (lecture.status, job.state) == (LectureStatus.FAILED, JobState.FAILED)
    stored = [path.name for path in (settings.data_dir / "storage/audio").iterdir()]
    assert stored == [f"{shared}.m4a"]


async def test_a_process_that_dies_takes_nobody_with_it_and_is_blamed_on_its_job(
    sessions: Sessions, worker: JobRunner, simulator: PanoptoSimulator, recording: Recording
) -> None:
    recording.faults.bytes_per_second = 1
    innocent = simulator.add(Recording(recording.media, offers=("mp4",)))
    killer = await request(sessions, simulator.viewer_url(recording), crashes=2)
    for deaths in range(3):
        pid = await until_fetching(recording, simulator, deaths + 1)
        other = await request(sessions, simulator.viewer_url(innocent), crashes=0)
        os.kill(pid, signal.SIGKILL)
        lecture, _ = await until_ended(sessions, other)
        assert lecture.status is LectureStatus.COMPLETED
        await wait_until(lambda pid=pid: pid not in processes(), "it is gone")
    lecture, job = await until_ended(sessions, killer)
    assert (lecture.status, lecture.failure) == (LectureStatus.FAILED, LectureFailure.INTERNAL)
    assert (job.state, job.crashes, job.crashes_alone) == (JobState.FAILED, 5, 3)


async def test_one_that_is_stuck_is_ended(
    sessions: Sessions,
    worker: JobRunner,
    simulator: PanoptoSimulator,
    recording: Recording,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.jobs.apart._SILENT_SECONDS", 2.0)
    recording.faults.bytes_per_second = 1
    lecture_id = await request(sessions, simulator.viewer_url(recording), crashes=2)
    pid = await until_fetching(recording, simulator, 1)
    os.kill(pid, signal.SIGSTOP)
    await wait_until(lambda: pid not in processes(), "it is gone", timeout_seconds=20)
    recording.faults.bytes_per_second = None
    lecture, job = await until_ended(sessions, lecture_id)
    assert (lecture.status, job.crashes, job.crashes_alone) == (LectureStatus.COMPLETED, 3, 1)


async def test_what_is_cancelled_leaves_nothing(
    sessions: Sessions,
    worker: JobRunner,
    simulator: PanoptoSimulator,
    recording: Recording,
    settings: Settings,
) -> None:
    recording.faults.bytes_per_second, recording.faults.no_range = 20_000, True
    lecture_id = await request(sessions, simulator.viewer_url(recording), crashes=2)
    await until_fetching(recording, simulator, 1)
    await wait_until(lambda: stored(settings), "a part is there")
    async with sessions.begin() as session:
        job_id = await ledger.close_job(session, DOWNLOAD, lecture_id)
    assert job_id is not None
    await worker.wakeups.publish([Wakeup("job", job_id)])
    await nothing_is_left()
    assert stored(settings) == []


async def test_a_worker_that_is_stopped_hands_it_back(
    settings: Settings, sessions: Sessions, simulator: PanoptoSimulator, recording: Recording
) -> None:
    recording.faults.bytes_per_second, recording.faults.no_range = 20_000, True
    lecture_id = await request(sessions, simulator.viewer_url(recording), crashes=2)
    async with open_worker(settings) as runner:
        running = asyncio.create_task(runner.run())
        await until_fetching(recording, simulator, 1)
        await wait_until(lambda: stored(settings), "a part is there")
        runner.stop()
        await running
        await nothing_is_left()
    lecture, job = await read(sessions, lecture_id)
    assert (lecture.status, lecture.attempt) == (LectureStatus.PENDING, 0)
    assert (job.state, job.crashes, job.crashes_alone) == (JobState.QUEUED, 2, 0)
    assert any(".kept" in name for name in stored(settings)), "what was fetched is kept"


def stored(settings: Settings) -> list[str]:
    folder = settings.data_dir / "storage" / "audio"
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


async def test_what_was_lost_when_it_is_to_be_handed_back_leaves_nothing(
    settings: Settings, sessions: Sessions, simulator: PanoptoSimulator, recording: Recording
) -> None:
    recording.faults.bytes_per_second, recording.faults.no_range = 20_000, True
    lecture_id = await request(sessions, simulator.viewer_url(recording), crashes=2)
    async with open_worker(settings) as runner:
        running = asyncio.create_task(runner.run())
        await until_fetching(recording, simulator, 1)
        await wait_until(lambda: stored(settings), "a part is there")
        async with sessions.begin() as session:
            await ledger.close_job(session, DOWNLOAD, lecture_id)
        runner.stop()
        await running
    assert stored(settings) == []


async def test_one_that_is_called_off_as_it_starts_answers(
    settings: Settings, sessions: Sessions, simulator: PanoptoSimulator, recording: Recording
) -> None:
    lecture_id = await request(sessions, simulator.viewer_url(recording), crashes=2)
    async with open_worker(settings) as runner:
        running = asyncio.create_task(runner.run())
        await wait_until(processes, "one starts", timeout_seconds=STARTS_WITHIN_SECONDS)
        runner.stop()
        await running
    lecture, job = await read(sessions, lecture_id)
    assert (lecture.status, lecture.attempt) == (LectureStatus.PENDING, 0)
    assert (job.state, job.crashes, job.crashes_alone) == (JobState.QUEUED, 2, 0)


async def test_the_end_of_the_forking_process_is_nobodys_fault(
    sessions: Sessions, worker: JobRunner, simulator: PanoptoSimulator, recording: Recording
) -> None:
    recording.faults.bytes_per_second = 1
    lecture_id = await request(sessions, simulator.viewer_url(recording), crashes=2)
    await until_fetching(recording, simulator, 1)
    (forker,) = forkers()
    recording.faults.bytes_per_second = None
    os.kill(forker, signal.SIGKILL)
    lecture, job = await until_ended(sessions, lecture_id)
    assert (lecture.status, job.crashes, job.crashes_alone) == (LectureStatus.COMPLETED, 2, 0)


async def test_what_keeps_it_from_starting_is_not_the_jobs_fault(
    settings: Settings, sessions: Sessions, simulator: PanoptoSimulator, recording: Recording
) -> None:
    """The storage is away as the process starts, and back before the next try."""
    async with open_worker(settings) as runner:
        storage, elsewhere = settings.data_dir / "storage", settings.data_dir / "elsewhere"
        storage.rename(elsewhere)
        storage.write_text("no folder")
        lecture_id = await request(sessions, simulator.viewer_url(recording), crashes=2)
        running = asyncio.create_task(runner.run())
        await wait_until(
            lambda: tried(sessions), "it was tried", timeout_seconds=STARTS_WITHIN_SECONDS
        )
        storage.unlink()
        elsewhere.rename(storage)
        lecture, job = await until_ended(sessions, lecture_id)
        runner.stop()
        await running
    assert (lecture.status, job.crashes, job.crashes_alone) == (LectureStatus.COMPLETED, 2, 0)


async def tried(sessions: Sessions) -> bool:
    """Whether the job was claimed, and handed back since."""
    async with sessions() as session:
        query = "SELECT 1 FROM jobs WHERE holder IS NOT NULL AND state = 'queued' AND crashes = 2"
        return (await session.execute(text(query))).first() is not None
