"""What becomes of a download that does not succeed at once, through the real worker."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import ledger
from app.db.models import Job, Lecture
from app.domain import JobKind, JobState, LectureFailure, LectureStatus
from app.embedded.panopto import PanoptoSimulator, Recording
from app.embedded.sample_media import make_lecture
from app.errors import LeaseLost
from app.events.wakeups import Wakeups
from app.jobs.runner import JobRunner, Slots
from app.settings import Settings, load_settings
from app.worker import open_worker
from tests.support.recorder import Recorder
from tests.support.wait import wait_until

Sessions = async_sessionmaker[AsyncSession]
DOWNLOAD = JobKind.DOWNLOAD_LECTURE


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lecture(tmp_path_factory.mktemp("media") / "lecture.mp4", 5)


@pytest.fixture
async def simulator() -> AsyncIterator[PanoptoSimulator]:
    async with PanoptoSimulator() as simulator:
        yield simulator


@pytest.fixture
def recording(simulator: PanoptoSimulator, media: Path) -> Recording:
    return simulator.add(Recording(media, offers=("mp4",)))


@pytest.fixture
async def worker(settings: Settings, simulator: PanoptoSimulator) -> AsyncIterator[JobRunner]:
    """A running worker."""
    settings = load_settings(
        **settings.model_dump(exclude_unset=True),
        panopto_hosts=(simulator.host_port,),
        fetch_allowed_private_hosts=(simulator.host_port, "127.0.0.1:1"),
    )
    async with open_worker(settings) as runner:
        running = asyncio.create_task(runner.run())
        yield runner
        runner.stop()
        await running


async def request(sessions: Sessions, url: str) -> UUID:
    """Queue a lecture, as the service does; its user is of no importance here."""
    async with sessions.begin() as session:
        lecture = Lecture(course_id=uuid4(), panopto_url=url, canonical_url=url)
        session.add(lecture)
        await session.flush()
        await ledger.open_job(session, DOWNLOAD, lecture.id, uuid4())
        return lecture.id


async def read(sessions: Sessions, lecture_id: UUID) -> tuple[Lecture, Job]:
    async with sessions() as session:
        lecture = (await session.scalars(select(Lecture).where(Lecture.id == lecture_id))).one()
        job = (await session.scalars(select(Job).where(Job.subject_id == lecture_id))).one()
        return lecture, job


async def until_waiting(sessions: Sessions, lecture_id: UUID, attempt: int) -> tuple[Lecture, Job]:
    """Return the lecture when it waits for its next attempt, after so many."""

    async def waits() -> tuple[Lecture, Job] | None:
        lecture, job = await read(sessions, lecture_id)
        return (lecture, job) if lecture.next_attempt_at and lecture.attempt == attempt else None

    return await wait_until(waits, f"it waits after attempt {attempt}")


async def until_ended(sessions: Sessions, lecture_id: UUID) -> tuple[Lecture, Job]:
    async def ended() -> tuple[Lecture, Job] | None:
        lecture, job = await read(sessions, lecture_id)
        over = lecture.status in {LectureStatus.COMPLETED, LectureStatus.FAILED}
        return (lecture, job) if over else None

    return await wait_until(ended, "the lecture has ended")


async def hurry(sessions: Sessions, worker: JobRunner) -> None:
    """Spare the test the wait."""
    async with sessions.begin() as session:
        await session.execute(text("UPDATE jobs SET run_at = now() WHERE state = 'queued'"))
    worker.ring()


async def test_a_busy_source_is_asked_five_times(
    sessions: Sessions, worker: JobRunner, simulator: PanoptoSimulator, recording: Recording
) -> None:
    recording.faults.media_status = 503
    lecture_id = await request(sessions, simulator.viewer_url(recording))
    for attempt in range(1, 5):
        # A short wait may be over already, and the next attempt with it.
        lecture, job = await until_waiting_or_later(sessions, lecture_id, attempt)
        if lecture.attempt == attempt and lecture.next_attempt_at:
            assert lecture.status is LectureStatus.PENDING
            assert lecture.failure is None
            assert lecture.error_message == "The source is busy or out of order."
            assert job.state in {JobState.QUEUED, JobState.RUNNING}  # claimed, but not yet begun
            assert job.attempt == attempt
        await hurry(sessions, worker)
    lecture, job = await until_ended(sessions, lecture_id)
    assert (lecture.status, lecture.failure) == (LectureStatus.FAILED, LectureFailure.NETWORK)
    assert (lecture.attempt, lecture.next_attempt_at) == (5, None)
    assert job.state is JobState.FAILED
    assert len(simulator.media_requests(recording)) >= 5


async def until_waiting_or_later(
    sessions: Sessions, lecture_id: UUID, attempt: int
) -> tuple[Lecture, Job]:
    async def there() -> tuple[Lecture, Job] | None:
        lecture, job = await read(sessions, lecture_id)
        waits = lecture.next_attempt_at is not None and lecture.attempt == attempt
        return (lecture, job) if waits or lecture.attempt > attempt else None

    return await wait_until(there, f"attempt {attempt} is over")


async def test_retry_after_is_kept_to(
    sessions: Sessions, worker: JobRunner, simulator: PanoptoSimulator, recording: Recording
) -> None:
    recording.faults.media_status, recording.faults.media_status_times = 429, 1
    recording.faults.retry_after = "600"
    lecture_id = await request(sessions, simulator.viewer_url(recording))
    lecture, _ = await until_waiting(sessions, lecture_id, 1)
    assert lecture.next_attempt_at is not None
    wait = lecture.next_attempt_at - datetime.now(UTC)
    assert timedelta(seconds=590) < wait <= timedelta(seconds=660)
    await hurry(sessions, worker)
    lecture, job = await until_ended(sessions, lecture_id)
    assert (lecture.status, lecture.attempt) == (LectureStatus.COMPLETED, 2)
    assert lecture.error_message is None
    assert job.state is JobState.DONE


async def test_a_refused_connection_is_tried_again(sessions: Sessions, worker: JobRunner) -> None:
    lecture_id = await request(sessions, "http://127.0.0.1:1/lecture.mp4")
    lecture, job = await until_waiting_or_later(sessions, lecture_id, 1)
    assert lecture.failure is None
    if lecture.next_attempt_at:
        assert lecture.error_message == "The connection to the source failed."
        assert job.last_error == lecture.error_message


async def test_what_is_not_ready_is_asked_again_for_a_day(
    sessions: Sessions, worker: JobRunner, simulator: PanoptoSimulator, recording: Recording
) -> None:
    recording.faults.not_encoded_times = 10**6
    lecture_id = await request(sessions, simulator.viewer_url(recording))
    lecture, job = await until_waiting(sessions, lecture_id, 1)
    assert lecture.next_attempt_at is not None
    assert timedelta(seconds=50) < lecture.next_attempt_at - datetime.now(UTC)
    assert lecture.next_attempt_at - datetime.now(UTC) <= timedelta(seconds=60)
    assert (lecture.status, lecture.failure) == (LectureStatus.PENDING, None)
    assert lecture.error_message
    assert job.attempt == 0, "waiting is no failure"
    async with sessions.begin() as session:
        await session.execute(text("UPDATE lectures SET started_at = now() - interval '25 h'"))
    await hurry(sessions, worker)
    lecture, _ = await until_ended(sessions, lecture_id)
    assert (lecture.status, lecture.failure) == (LectureStatus.FAILED, LectureFailure.TIMEOUT)


async def test_the_wait_grows_and_ends_when_the_recording_is_ready(
    sessions: Sessions, worker: JobRunner, simulator: PanoptoSimulator, recording: Recording
) -> None:
    recording.faults.not_encoded_times = 6
    lecture_id = await request(sessions, simulator.viewer_url(recording))
    await until_waiting(sessions, lecture_id, 1)
    asked_after = {"1 min": 2, "3 min": 5, "8 min": 10, "18 min": 20, "23 h": 60}
    for attempt, (age, minutes) in enumerate(asked_after.items(), 2):
        async with sessions.begin() as session:
            query = text(
                "UPDATE lectures SET started_at = now() - CAST(CAST(:age AS text) AS interval)"
            )
            await session.execute(query, {"age": age})
        await hurry(sessions, worker)
        lecture, job = await until_waiting(sessions, lecture_id, attempt)
        assert lecture.next_attempt_at is not None
        wait = lecture.next_attempt_at - datetime.now(UTC)
        assert timedelta(minutes=minutes, seconds=-10) < wait <= timedelta(minutes=minutes)
        assert (lecture.status, lecture.failure) == (LectureStatus.PENDING, None)
        assert lecture.error_message == "The recording is still being encoded."
        assert job.attempt == 0, "waiting is no failure"
    await hurry(sessions, worker)
    lecture, _ = await until_ended(sessions, lecture_id)
    assert lecture.status is LectureStatus.COMPLETED
    assert (lecture.error_message, lecture.next_attempt_at) == (None, None)


async def test_what_has_killed_ten_workers_is_closed(
    sessions: Sessions, worker: JobRunner, simulator: PanoptoSimulator, recording: Recording
) -> None:
    worker.stop()
    lecture_id = await request(sessions, simulator.viewer_url(recording))
    async with sessions.begin() as session:
        await session.execute(text("UPDATE jobs SET crashes = 10 WHERE kind = 'download_lecture'"))
    lecture, job = await _worked_on(sessions, worker, lecture_id)
    assert (lecture.status, lecture.failure) == (LectureStatus.FAILED, LectureFailure.INTERNAL)
    assert (lecture.attempt, job.state) == (0, JobState.FAILED)
    assert simulator.media_requests(recording) == []


async def _worked_on(
    sessions: Sessions, worker: JobRunner, lecture_id: UUID
) -> tuple[Lecture, Job]:
    """Run a second runner with the same lanes, since the first one has been stopped."""
    runner = JobRunner(worker.sessions, worker.wakeups, worker.lanes)
    running = asyncio.create_task(runner.run())
    try:
        return await until_ended(sessions, lecture_id)
    finally:
        runner.stop()
        await running


@pytest.fixture
async def recorder(sessions: Sessions, redis_url: str) -> AsyncIterator[tuple[Recorder, JobRunner]]:
    recorder = Recorder(sessions)
    async with Wakeups(redis_url) as wakeups:
        yield recorder, JobRunner(sessions, wakeups, [Slots([recorder], 2)])


async def _queue(sessions: Sessions) -> UUID:
    subject = uuid4()
    async with sessions.begin() as session:
        await ledger.open_job(session, JobKind.COUNT_PAGES, subject, None)
    return subject


async def test_stopping_hands_back(
    sessions: Sessions, recorder: tuple[Recorder, JobRunner]
) -> None:
    handler, runner = recorder
    subject = await _queue(sessions)
    running = asyncio.create_task(runner.run())
    await wait_until(lambda: handler.events, "it runs")
    runner.stop()
    await running
    assert handler.events == ["run", "cancelled", "handed back"]
    async with sessions() as session:
        job = (await session.scalars(select(Job).where(Job.subject_id == subject))).one()
    assert (job.state, job.attempt, job.crashes) == (JobState.QUEUED, 0, 0)


async def test_what_was_taken_away_is_let_go_once(
    sessions: Sessions, recorder: tuple[Recorder, JobRunner]
) -> None:
    handler, runner = recorder
    subject = await _queue(sessions)
    running = asyncio.create_task(runner.run())
    await wait_until(lambda: handler.events, "it runs")
    async with sessions.begin() as session:
        await ledger.close_job(session, JobKind.COUNT_PAGES, subject)
    await wait_until(lambda: "cancelled" in handler.events, "it is called off", timeout_seconds=4)
    runner.stop()
    await running
    assert handler.events == ["run", "cancelled", "forgotten"]


async def test_a_job_that_this_very_worker_takes_over_is_kept_apart(
    sessions: Sessions, recorder: tuple[Recorder, JobRunner]
) -> None:
    handler, runner = recorder
    await _queue(sessions)
    running = asyncio.create_task(runner.run())
    await wait_until(lambda: handler.events, "it runs")

    async def taken_over() -> bool:
        async with sessions.begin() as session:
            await session.execute(text("UPDATE jobs SET lease_until = to_timestamp(0)"))
        runner.ring()
        return handler.events.count("run") == 2

    await wait_until(taken_over, "it is claimed again")
    await wait_until(lambda: "cancelled" in handler.events, "the old one ends", timeout_seconds=4)
    runner.stop()
    await running
    assert handler.events.count("handed back") == 1


async def test_what_a_process_of_this_machine_left_is_taken_up_at_once(
    sessions: Sessions, recorder: tuple[Recorder, JobRunner]
) -> None:
    handler, runner = recorder
    assert runner.name is not None
    gone = dataclasses.replace(runner.name, start_time="1")
    elsewhere = dataclasses.replace(gone, boot_id="another")
    mine, theirs = await _queue(sessions), await _queue(sessions)
    async with sessions.begin() as session:
        leases = await ledger.claim(session, [handler.kind], 2, 3600, holder=str(gone))
        await session.execute(
            update(Job).where(Job.subject_id == theirs).values(holder=str(elsewhere))
        )
    assert {lease.subject_id for lease in leases} == {mine, theirs}
    running = asyncio.create_task(runner.run())
    await wait_until(lambda: handler.events, "it is claimed again", timeout_seconds=10)
    async with sessions() as session:
        jobs = {job.subject_id: job for job in await session.scalars(select(Job))}
    assert (jobs[mine].holder, jobs[mine].crashes) == (runner.holder, 1)
    assert (jobs[theirs].holder, jobs[theirs].crashes) == (str(elsewhere), 0)
    runner.stop()
    await running
    assert handler.events == ["run", "cancelled", "handed back"]


async def test_a_fault_of_ours_ends_the_job_alone(
    sessions: Sessions, recorder: tuple[Recorder, JobRunner]
) -> None:
    handler, runner = recorder
    handler.broken = ZeroDivisionError("a fault of ours")
    await _queue(sessions)
    running = asyncio.create_task(runner.run())
    await wait_until(lambda: "abandoned" in handler.events, "it is closed")
    assert not running.done()
    handler.broken = LeaseLost()
    await _queue(sessions)
    runner.ring()
    await wait_until(lambda: handler.events.count("run") == 2, "the next one runs")
    runner.stop()
    await running
