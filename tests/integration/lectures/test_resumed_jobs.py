"""A download whose attempt ends in trouble that passes, and its next one, by the same worker."""

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
from tests.support.children import kill_a_child
from tests.support.wait import wait_until

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


async def test_a_source_that_is_always_busy_is_asked_once_in_each_attempt(
    download: Download, simulator: PanoptoSimulator, media: Path
) -> None:
    recording = simulator.add(Recording(media, offers=("mp4",)))
    recording.faults.media_status = 503
    await download.request(simulator.viewer_url(recording))
    for attempt in range(1, 6):
        lecture = await download.until(attempt, LectureStatus.PENDING, LectureStatus.FAILED)
        assert len(simulator.media_requests(recording)) == attempt
        await download.hurry()
    assert (lecture.status, lecture.failure) == (LectureStatus.FAILED, LectureFailure.NETWORK)
    assert download.left() == {}


async def test_a_source_that_always_ends_early_is_asked_a_few_times(
    download: Download, simulator: PanoptoSimulator, media: Path
) -> None:
    recording = simulator.add(Recording(media, offers=("mp4",)))
    recording.faults.ends_at_byte = 1_800_000
    await download.request(simulator.viewer_url(recording))
    for attempt in range(1, 6):
        lecture = await download.until(attempt, LectureStatus.PENDING, LectureStatus.FAILED)
        await download.hurry()
    assert (lecture.status, lecture.failure) == (LectureStatus.FAILED, LectureFailure.TRUNCATED)
    asked = simulator.media_requests(recording)
    # The head, the rest of what there is, and two more tries; then one in each attempt.
    assert len(asked) == 4 + 4
    assert sum(each.sent_bytes for each in asked) == 1_800_000


@pytest.mark.parametrize("offers", [("mp4",), ("hls",)])
async def test_a_child_that_is_killed_costs_an_attempt_and_not_the_lecture(
    download: Download, simulator: PanoptoSimulator, media: Path, offers: tuple[str, ...]
) -> None:
    """Of a file, the child extracts its audio; of a stream, the first one reads a playlist."""
    recording = simulator.add(Recording(media, offers=offers))
    await download.request(simulator.viewer_url(recording))
    await kill_a_child()
    lecture = await download.until(1, LectureStatus.PENDING)
    assert (lecture.failure, lecture.next_attempt_at is None) == (None, False)
    assert download.left() == {}
    await download.hurry()
    await download.until(2, LectureStatus.COMPLETED)
    assert set(download.left()) == {".m4a"}


async def test_a_recording_whose_children_are_always_killed_fails_in_the_end(
    download: Download, simulator: PanoptoSimulator, media: Path
) -> None:
    recording = simulator.add(Recording(media, offers=("mp4",)))
    await download.request(simulator.viewer_url(recording))
    for attempt in range(1, 6):
        await kill_a_child()
        lecture = await download.until(attempt, LectureStatus.PENDING, LectureStatus.FAILED)
        await download.hurry()
    assert (lecture.status, lecture.failure) == (LectureStatus.FAILED, LectureFailure.INTERNAL)
    assert download.left() == {}


async def test_a_source_that_is_replaced_by_a_longer_one_is_asked_how_long_it_is(
    download: Download, simulator: PanoptoSimulator, media: Path, tmp_path: Path
) -> None:
    recording = simulator.add(Recording(media, offers=("mp4",)))
    recording.faults.cut_after_bytes, recording.faults.cut_times = 700_000, None
    recording.faults.bytes_per_second = 2_000_000
    await download.request(simulator.viewer_url(recording))
    await wait_until(lambda: len(simulator.media_requests(recording)) > 1, "the file is coming")
    longer = make_lecture(tmp_path / "b.mp4", 14, size_bytes=1_000_000, fragmented=True)
    recording.media, recording.version = longer, 2
    recording.faults.bytes_per_second = recording.faults.cut_after_bytes = None
    lecture = await download.until(1, LectureStatus.PENDING)
    assert lecture.failure is None
    await download.hurry()
    lecture = await download.until(2, LectureStatus.COMPLETED)
    assert lecture.duration_seconds == 14
    assert set(download.left()) == {".m4a"}
