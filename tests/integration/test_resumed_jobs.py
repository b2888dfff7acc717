"""A download whose source is busy in the middle goes on in its next attempt, by the same worker."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import ledger
from app.db.models import Lecture
from app.domain import JobKind, LectureFailure, LectureStatus
from app.embedded.panopto import PanoptoSimulator, Recording
from app.embedded.sample_media import make_lecture
from app.jobs.runner import JobRunner
from app.settings import Settings, load_settings
from app.worker import open_worker
from tests.wait import wait_until

Sessions = async_sessionmaker[AsyncSession]
HEAD_BYTES = 512 * 1024
"""What is asked for first."""


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 MB in fragments: a file that is fetched whole."""
    path = tmp_path_factory.mktemp("media") / "lecture.mp4"
    return make_lecture(path, 10, size_bytes=3_000_000, fragmented=True)


@pytest.fixture
async def simulator() -> AsyncIterator[PanoptoSimulator]:
    async with PanoptoSimulator() as simulator:
        yield simulator


@pytest.fixture
async def worker(settings: Settings, simulator: PanoptoSimulator) -> AsyncIterator[JobRunner]:
    """A running worker."""
    settings = load_settings(
        **settings.model_dump(exclude_unset=True),
        panopto_hosts=(simulator.host_port,),
        fetch_allowed_private_hosts=(simulator.host_port,),
    )
    async with open_worker(settings) as runner:
        running = asyncio.create_task(runner.run())
        yield runner
        runner.stop()
        await running


class Download:
    """One lecture, and what of it lies on the disk."""

    def __init__(self, sessions: Sessions, worker: JobRunner, files: Path) -> None:
        self.sessions, self.worker, self.files = sessions, worker, files
        self.lecture_id: UUID | None = None

    async def request(self, url: str) -> None:
        async with self.sessions.begin() as session:
            lecture = Lecture(course_id=uuid4(), panopto_url=url, canonical_url=url)
            session.add(lecture)
            await session.flush()
            await ledger.open_job(session, JobKind.DOWNLOAD_LECTURE, lecture.id, uuid4())
            self.lecture_id = lecture.id

    async def until(self, attempt: int, *statuses: LectureStatus) -> Lecture:
        async def is_there() -> Lecture | None:
            async with self.sessions() as session:
                lecture = await session.get_one(Lecture, self.lecture_id)
            return (
                lecture
                if (lecture.attempt, lecture.status in statuses) == (attempt, True)
                else None
            )

        return await wait_until(is_there, f"attempt {attempt} is over")

    async def hurry(self) -> None:
        async with self.sessions.begin() as session:
            await session.execute(text("UPDATE jobs SET run_at = now() WHERE state = 'queued'"))
        self.worker.ring()

    def left(self) -> dict[str, int]:
        """Return the sizes of all files, by their suffix."""
        found = [path for path in self.files.rglob("*") if path.is_file()]
        assert len({path.suffix for path in found}) == len(found)
        return {path.suffix: path.stat().st_size for path in found}


@pytest.fixture
async def download(
    settings: Settings,
    sessions: Sessions,
    worker: JobRunner,
    simulator: PanoptoSimulator,
    media: Path,
) -> "Download":
    return Download(sessions, worker, settings.data_dir / "storage")


@pytest.fixture
async def recording(download: Download, simulator: PanoptoSimulator, media: Path) -> Recording:
    """A recording of which a first attempt brought a little before the source asked it to wait."""
    recording = simulator.add(Recording(media, offers=("mp4",)))
    recording.faults.cut_after_bytes, recording.faults.cut_times = 700_000, None
    recording.faults.bytes_per_second = 2_000_000
    recording.faults.retry_after = "600"
    await download.request(simulator.viewer_url(recording))
    await wait_until(lambda: len(simulator.media_requests(recording)) > 1, "the file is coming")
    recording.faults.media_status = 429
    await download.until(1, LectureStatus.PENDING)
    assert set(download.left()) == {".part", ".note"}
    assert HEAD_BYTES <= download.left()[".part"] < media.stat().st_size
    simulator.requests.clear()
    return recording


async def test_the_next_attempt_asks_for_the_rest_alone(
    download: Download, recording: Recording, simulator: PanoptoSimulator
) -> None:
    kept = download.left()[".part"]
    recording.faults.media_status = recording.faults.cut_after_bytes = None
    await download.hurry()
    await download.until(2, LectureStatus.COMPLETED)
    (asked,) = simulator.media_requests(recording)
    assert asked.range == f"bytes={kept}-"
    assert set(download.left()) == {".m4a"}


async def test_the_next_attempt_fails_for_good_and_leaves_nothing(
    download: Download, recording: Recording
) -> None:
    recording.faults.media_status = 404
    await download.hurry()
    lecture = await download.until(2, LectureStatus.FAILED)
    assert lecture.failure is LectureFailure.SOURCE_NOT_FOUND
    assert download.left() == {}


async def test_what_five_attempts_did_not_bring_is_thrown_away(
    download: Download, recording: Recording
) -> None:
    for attempt in range(2, 6):
        assert set(download.left()) == {".part", ".note"}
        await download.hurry()
        lecture = await download.until(attempt, LectureStatus.PENDING, LectureStatus.FAILED)
    assert (lecture.status, lecture.failure) == (LectureStatus.FAILED, LectureFailure.NETWORK)
    assert download.left() == {}
